// SPDX-License-Identifier: Apache-2.0
//
// The processes of one cell, and what can be done to them from outside.
#ifndef REHOME_TESTS_CHAOS_STAGE_H_
#define REHOME_TESTS_CHAOS_STAGE_H_

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/migration_client.h"
#include "kvmglue/fd.h"
#include "tests/chaos/cell.h"
#include "tests/harness/guest_watch.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "tests/harness/meeting_place.h"
#include "tests/harness/service_manager.h"

namespace rehome::chaos {

inline constexpr char kVmId[] = "guest";

// Not thread-safe. An error of any method is a fault of the cell.
class Stage {
 public:
  // `attempt` counts from 0: each gives the migration more time to come to its phase.
  Stage(const Cell& cell, int attempt) : cell_(cell), attempt_(attempt) {}
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Daemon, guest, and somebody who watches it.
  absl::Status SetUp();
  // Starts the migration; returns once a VMM is held at the cell's phase. False: the migration
  // ended without that; nobody is held any more.
  absl::StatusOr<bool> ReachPhase();
  // Strikes the victims, then lets the held VMM go.
  absl::Status Strike();
  // Lets VMMs settle without a daemon until the guest goes on; false if it did not.
  bool AwaitSettled(std::chrono::milliseconds timeout);
  // A killed daemon is started again, a stopped one goes on.
  absl::Status BringDaemonBack();
  // VMMs that were stopped, and live, go on.
  void LetVmmsGo();
  // Asks the daemon to look again at a migration that is INDETERMINATE.
  absl::Status Resolve();
  // The migration's last record.
  absl::StatusOr<v1::Migration> AwaitEnd(std::chrono::milliseconds timeout);

  harness::HostUnderTest& host() { return *host_; }
  harness::GuestWatch& watch() { return *watch_; }
  const harness::Footprint& footprint() const { return footprint_; }
  const std::vector<InodeId>& inodes() const { return inodes_; }
  const std::string& migration() const { return migration_; }
  // From its arrival at the cell's phase until Strike() let it go.
  std::chrono::milliseconds held_for() const { return held_for_; }
  pid_t source() const { return source_pid_; }
  // 0 where there is none at the cell's phase.
  pid_t target() const { return target_pid_; }
  std::vector<pid_t> Vmms() const;
  // What daemons and VMMs have written.
  std::string Logs() const;

 private:
  absl::Status StartHost();
  absl::Status StartGuest();
  absl::Status StartMigration();
  absl::StatusOr<bool> AwaitArrival();
  absl::StatusOr<bool> IsTooLate() const;
  absl::StatusOr<v1::Migration> Record() const;
  absl::Status FindTarget(const harness::MeetingPlace::Arrival& arrival);
  void Signal(int signal_number);
  absl::Status AwaitStopped() const;
  MigrationClient NewClient() const;

  const Cell cell_;
  const int attempt_;
  std::unique_ptr<harness::ServiceManager> manager_;
  std::unique_ptr<harness::MeetingPlace> meeting_;
  std::unique_ptr<harness::HostUnderTest> host_;
  harness::StartedVmm vmm_;
  std::unique_ptr<harness::GuestWatch> watch_;
  harness::Footprint footprint_;
  std::vector<InodeId> inodes_;
  std::string migration_;
  pid_t source_pid_ = 0;
  pid_t target_pid_ = 0;
  std::chrono::steady_clock::time_point arrived_;
  std::chrono::milliseconds held_for_{0};
  UniqueFd target_pidfd_;
};

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_STAGE_H_
