// SPDX-License-Identifier: Apache-2.0
//
// One migration by real programs on the simulated kernel whose daemon dies at one append to its
// journal, is started again by a service manager that kept its descriptors, and has to come to
// terms with what it finds.
#ifndef REHOME_TESTS_CRASH_SWEEP_CRASH_CASE_H_
#define REHOME_TESTS_CRASH_SWEEP_CRASH_CASE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/migration_client.h"
#include "kvmglue/fd.h"
#include "tests/crash_sweep/journal_crash_file.h"
#include "tests/harness/guest_watch.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "tests/harness/process.h"
#include "tests/harness/service_manager.h"

namespace rehome {

// How the migration goes if the daemon lives.
struct CrashStory {
  std::string name;
  std::string vm_type;
  std::string memory_kind;  // "" = the VMM's default
  v1::Migration::FencePolicy policy;
  // Where its first target dies: a place of vmm/reference/test_hooks.h; "" = nowhere.
  std::string first_target_dies_at;
  v1::Migration::State state;
  v1::Migration::GuestOwner owner;
  bool rescued = false;
};

struct CrashPoint {
  uint64_t append = 0;  // the Nth since the migration was asked for; 0: the daemon lives
  bool is_before = false;
};

struct CrashResult {
  bool crashed = false;
  uint64_t appends = 0;  // that the first daemon began
  std::string ending;    // for a line of a table
  v1::Migration record;  // the last one; unset if there is none
  std::vector<std::string> problems;
};

// Not thread-safe.
class CrashCase {
 public:
  CrashCase(const CrashStory& story, const CrashPoint& point) : story_(story), point_(point) {}
  ~CrashCase();
  CrashCase(const CrashCase&) = delete;
  CrashCase& operator=(const CrashCase&) = delete;

  CrashResult Run();

 private:
  absl::Status StartHost();
  absl::Status StartGuest();
  // Returns once the daemon has died, or the migration has ended without that.
  absl::Status Migrate();
  absl::Status RestartDaemon();
  // The record that the migration ends with, resolved if that is what it takes.
  absl::Status AwaitEnd();
  absl::StatusOr<v1::Migration> Watch(const std::string& name);
  absl::StatusOr<std::string> FindMigration();
  void Judge();
  void JudgeGuest(pid_t owner);
  void JudgeRemains(pid_t owner);
  void Problem(std::string text) { result_.problems.push_back(std::move(text)); }

  const CrashStory story_;
  const CrashPoint point_;
  CrashResult result_;
  harness::TempDir directory_;
  std::unique_ptr<JournalCrashFile> crash_;
  std::unique_ptr<harness::ServiceManager> manager_;
  std::unique_ptr<harness::HostUnderTest> host_;
  harness::StartedVmm source_;
  pid_t source_pid_ = 0;
  std::unique_ptr<harness::GuestWatch> watch_;
  std::vector<InodeId> inodes_;
  harness::Footprint footprint_;
};

}  // namespace rehome

#endif  // REHOME_TESTS_CRASH_SWEEP_CRASH_CASE_H_
