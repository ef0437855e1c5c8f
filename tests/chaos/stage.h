// SPDX-License-Identifier: Apache-2.0
//
// The processes of one cell, and what can be done to them from outside.
#ifndef REHOME_TESTS_CHAOS_STAGE_H_
#define REHOME_TESTS_CHAOS_STAGE_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/migration_client.h"
#include "kvmglue/fd.h"
#include "tests/chaos/cell.h"
#include "tests/crash_sweep/journal_crash_file.h"
#include "tests/harness/guest_watch.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "tests/harness/meeting_place.h"
#include "tests/harness/service_manager.h"

namespace rehome::chaos {

inline constexpr char kVmId[] = "guest";
// For a migration to come to its phase, 100 ms on a quiet machine, or to end at its deadline.
inline constexpr std::chrono::milliseconds kArriveTimeout{60'000};

// How far a migration came.
enum class Reached : uint8_t {
  kNothing,  // it ended before anybody was struck
  kFirst,    // the cell's first blow fell; it ended before it came to the cell's phase
  kPhase,    // somebody is held at the cell's phase
};

// From the claim until a target is taken for one that hangs.
std::chrono::milliseconds ResolveTimeoutOf(const Cell& cell);

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
  // Starts the migration, and does the first blow of a cell that has one. Unless it is kPhase
  // nobody is held any more.
  absl::StatusOr<Reached> ReachPhase();
  // Strikes the victims, then lets go who is held.
  absl::Status Strike();
  // Lets VMMs settle without a daemon until the guest goes on; false if it did not.
  bool AwaitSettled(std::chrono::milliseconds timeout);
  // A killed daemon is started again, a stopped one goes on. Returns once it serves.
  absl::Status BringDaemonBack();
  // One that was held in its recovery does not serve before it is let go.
  absl::Status AwaitDaemon() { return host_->AwaitServing(); }
  // VMMs that were stopped, and live, go on.
  void LetVmmsGo();
  // Asks the daemon to look again at a migration that is INDETERMINATE.
  absl::Status Resolve();
  // What an operator may do about one: ends the source, for good.
  absl::Status EndSource();
  absl::Status RestartDaemon();
  // The migration's last record.
  absl::StatusOr<v1::Migration> AwaitEnd(std::chrono::milliseconds timeout);

  harness::HostUnderTest& host() { return *host_; }
  harness::GuestWatch& watch() { return *watch_; }
  const harness::Footprint& footprint() const { return footprint_; }
  const std::vector<InodeId>& inodes() const { return inodes_; }
  const std::string& migration() const { return migration_; }
  // What the service manager keeps; nothing without one.
  std::vector<std::string> stored() const;
  // From the arrival at the cell's phase until Strike() let go.
  std::chrono::milliseconds held_for() const { return held_for_; }
  pid_t source() const { return source_pid_; }
  // The latest. 0 where there is none at the cell's phase.
  pid_t target() const { return target_pid_; }
  std::vector<pid_t> Vmms() const;
  // What daemons and VMMs have written.
  std::string Logs() const;

 private:
  absl::Status StartHost();
  absl::Status StartGuest();
  absl::Status StartMigration();
  // False: it ended without anybody having come.
  absl::StatusOr<bool> AwaitArrival();
  // Of a cell within kHandover.
  absl::StatusOr<bool> ReachHandover(const Cell& plain);
  absl::StatusOr<bool> IsTooLate(const Phase& phase) const;
  absl::Status StrikeFirst();
  absl::StatusOr<bool> ReachRescue();
  absl::StatusOr<bool> ReachRecovery();
  absl::StatusOr<v1::Migration> Record() const;
  absl::Status FindTarget(pid_t pid, bool is_victim);
  void Signal(const Victims& victims, int signal_number);
  absl::Status AwaitStopped() const;
  void LetGo();
  MigrationClient NewClient() const;

  const Cell cell_;
  const int attempt_;
  std::unique_ptr<harness::ServiceManager> manager_;
  std::unique_ptr<harness::MeetingPlace> meeting_;
  std::unique_ptr<JournalCrashFile> journal_;  // within kRecovery
  std::unique_ptr<harness::HostUnderTest> host_;
  harness::StartedVmm vmm_;
  std::unique_ptr<harness::GuestWatch> watch_;
  harness::Footprint footprint_;
  std::vector<InodeId> inodes_;
  std::string migration_;
  pid_t source_pid_ = 0;
  pid_t target_pid_ = 0;
  std::vector<pid_t> targets_;  // all that came to a phase
  std::chrono::steady_clock::time_point arrived_;
  std::chrono::milliseconds held_for_{0};
  UniqueFd target_pidfd_;
};

}  // namespace rehome::chaos

#endif  // REHOME_TESTS_CHAOS_STAGE_H_
