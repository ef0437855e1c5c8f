// SPDX-License-Identifier: Apache-2.0
//
// The frame of tests that cross rooms: one host with real processes, guests that are followed from
// process to process, and what must be true of a migration whichever way it ended. At the end of
// each test everything is shut down, every guest still alive must be intact by its VMM's own
// account, and if anything failed, all logs are printed.
#ifndef REHOME_TESTS_SCENARIO_H_
#define REHOME_TESTS_SCENARIO_H_

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kvmglue/fd.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/host_under_test.h"
#include "tests/heartbeats.h"
#include "vmm/reference/guest_check.h"

namespace rehome {

// Bound of every wait for something that must happen, on a machine that is busy otherwise.
inline constexpr std::chrono::milliseconds kPatience{60'000};

// Tries until `holds`, at most for kPatience: for what has no event to wait for.
bool Eventually(const std::function<bool()>& holds);

// A guest and the process that ran it when somebody last looked.
struct FollowedGuest {
  std::string vm_id;
  std::string console_path;
  pid_t pid = 0;
  UniqueFd pidfd;
  std::vector<InodeId> inodes;  // of its memory
  std::vector<uint64_t> steps;  // of each vCPU, as last seen
  GuestChecker checker;
  // Where a real kernel keeps the memory private, the guest is heard instead: it checks itself.
  std::optional<Heartbeats> heard;
  bool lost = false;  // died on purpose; nothing is expected of it at the end
};

// What a successful migration must say of itself.
struct Move {
  v1::Migration::Strategy strategy = v1::Migration::MAP;
  v1::Migration::FencePolicy policy = v1::Migration::BEFORE_RESUME;
};

class Scenario : public testing::Test {
 protected:
  void TearDown() override;

  // Each fails the test fatally if it cannot do what it says.
  void StartHost(harness::HostOptions options);
  void StartGuest(const harness::VmmOptions& options = {});
  // A guest whose memory is read by nobody outside. REQUIRES: it has heartbeats (--heartbeat-ms).
  void StartUnseenGuest(const harness::VmmOptions& options);

  harness::HostUnderTest& host() { return *host_; }
  FollowedGuest& guest(const std::string& vm_id = "guest") { return guests_.at(vm_id); }

  // A migration of guest "guest" to a profile.
  v1::CreateMigrationRequest RequestFor(const std::string& profile,
                                        const std::string& vm_id = "guest") const;
  // Asks for it and watches it to its end. A request that is refused fails the test.
  v1::Migration Migrate(const v1::CreateMigrationRequest& request);
  v1::Migration Watch(const std::string& name);

  // The guest runs in the process that the daemon lists, its chain goes on from where it was last
  // seen, and memory and registers are those of a guest that never left off; of an unseen guest: no
  // heartbeat is missing and it counts no errors. Remembers the process.
  void ExpectGuestLives(FollowedGuest& guest);
  // The guest runs in the very process in which it ran before.
  void ExpectStayed(FollowedGuest& guest);

  // SUCCEEDED, with a record that is whole, and a world that agrees with it.
  void ExpectMoved(const v1::Migration& record, FollowedGuest& guest, const Move& move);
  // Ended as `state` because of `reason`, the guest unharmed where it was and nothing left behind.
  void ExpectFailed(const v1::Migration& record, FollowedGuest& guest, const std::string& reason,
                    v1::Migration::State state = v1::Migration::FAILED);
  // No process but the daemon and those that run guests; guest memory is held by these alone.
  void ExpectNothingLeft();

  v1::VirtualMachine GetVm(const std::string& vm_id) const;

 private:
  void Add(const harness::VmmOptions& options);
  void Look(FollowedGuest& guest, pid_t pid);
  void Listen(FollowedGuest& guest, pid_t pid);
  void ExpectProof(const v1::Migration& record, const Move& move, const FollowedGuest& guest);
  void ExpectBlackout(const v1::Migration& record, const Move& move);
  void ExpectIntactAtTheEnd();

  std::unique_ptr<harness::HostUnderTest> host_;
  std::vector<harness::StartedVmm> started_;
  std::map<std::string, FollowedGuest> guests_;
};

// Of an error in a record or of a call: ErrorInfo.reason.
std::string ReasonIn(const v1::Migration& record);

}  // namespace rehome

#endif  // REHOME_TESTS_SCENARIO_H_
