// SPDX-License-Identifier: Apache-2.0
//
// A migration as the daemon thinks of it: plain data, no protobuf, no fd, no lock. The service
// translates it to rehome.v1.Migration, the journal to rehome.journal.v1.Record.
#ifndef REHOME_DAEMON_MIGRATION_H_
#define REHOME_DAEMON_MIGRATION_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// Public states (architecture: one migration). Values are stored in the journal: append only.
enum class MigrationState : uint8_t {
  kPending = 1,
  kPreparing = 2,
  kHandingOver = 3,
  kCompleting = 4,
  kRollingBack = 5,
  kSucceeded = 6,
  kFailed = 7,
  kCancelled = 8,
  kIndeterminate = 9,
};
inline constexpr size_t kMigrationStateCount = 9;
bool IsTerminal(MigrationState state);
const char* MigrationStateName(MigrationState state);  // "PENDING", ...

// Who may run the guest as far as this daemon can prove.
enum class GuestOwner : uint8_t { kSource = 1, kTarget = 2, kUndecided = 3, kNobody = 4 };
const char* GuestOwnerName(GuestOwner owner);  // "SOURCE", ...

enum class Strategy : uint8_t { kLinkMove = 1, kMapMove = 2, kLink = 3, kMap = 4 };
const char* StrategyName(Strategy strategy);  // "LINK_MOVE", ...

enum class FencePolicy : uint8_t {
  kUnspecified = 0,   // take the strategy's default
  kKernel = 1,        // MOVE strategies: vm_dead
  kBeforeResume = 2,  // default without MOVE
  kAfterResume = 3,
};

struct PreflightCheck {
  enum class Result : uint8_t { kPassed = 1, kFailed = 2, kNotApplicable = 3 };
  std::string name;  // stable, snake_case: "source_registered", "strategy_supported", ...
  Result result = Result::kPassed;
  std::string reason;  // UPPER_SNAKE when failed
  std::string detail;  // for people
  friend bool operator==(const PreflightCheck&, const PreflightCheck&) = default;
};

// CLOCK_MONOTONIC, ns, indexed by rehome_phase of vmm/agent/handover_block.h; 0 = not reached.
// The values come from the VMMs and are shown only when they are in order and within the migration.
using PhaseTimes = std::array<uint64_t, 8>;

// A process named so that it cannot be mistaken for a later one with the same number.
struct ProcessIdentity {
  int32_t pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat
  uint64_t pidfd_inode = 0;  // unique per process on pidfs kernels (6.9+), else 0
  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};

// Who a process that holds guest memory is to the migration. Values are stored in the journal:
// append only.
enum class HolderClass : uint8_t {
  kTarget = 1,   // the process that was expected to hold it
  kDaemon = 2,   // ourselves: the escrow, closed after the search
  kForeign = 3,  // nobody who should
};

struct InodeHolder {
  int32_t pid = 0;
  std::string command;
  std::string how;  // "fd" or "mapping"; "fd" if it is both
  HolderClass holder_class = HolderClass::kForeign;
  friend bool operator==(const InodeHolder&, const InodeHolder&) = default;
};

// Listed of one inode. Target and daemon come first; one foreign holder is news enough.
inline constexpr size_t kMaxHoldersListed = 8;

// Who holds one inode of guest memory, as all of /proc was searched for it.
struct InodeSearch {
  InodeId inode;
  std::vector<InodeHolder> holders;  // at most kMaxHoldersListed
  uint32_t foreign = 0;              // holders of class kForeign, also those that are not listed
  // The target was found to hold it: the search sees what it looks for.
  bool HeldByTarget() const;
  friend bool operator==(const InodeSearch&, const InodeSearch&) = default;
};

// Who holds the guest's memory, as all of /proc says (Fence::FindHolders(), daemon/fence.h).
struct HolderSearch {
  std::vector<InodeSearch> memory;  // one per inode that was asked for; empty: nobody has searched
  uint64_t begun_ns = 0;            // CLOCK_MONOTONIC
  // Process 1 was left out, because a security module shields it (IsInitShielded()).
  bool init_shielded = false;
  // Those of class kForeign that are listed, each process once.
  std::vector<InodeHolder> Foreign() const;
  friend bool operator==(const HolderSearch&, const HolderSearch&) = default;
};

// Who saw a part of a proof, and from where: which process, in which role.
struct Observer {
  std::string role;  // "rehomed"; "source": its own probe; "target"; empty: nobody has seen it
  ProcessIdentity process;
  friend bool operator==(const Observer&, const Observer&) = default;
};

// Why the source cannot run the guest again. Kept with the migration. Times are CLOCK_MONOTONIC ns
// of the boot Migration::boot_id.
struct FenceProof {
  // EIO in the source's own process: the kernel marked its VM dead.
  bool kernel_vm_dead = false;
  Observer kernel_observer;
  uint64_t kernel_dead_seen_ns = 0;
  bool process_exited = false;         // pidfd readable and reaped or gone
  bool stopped_before_resume = false;  // every task exiting before the target ran
  Observer stop_observer;              // of that
  Observer observer;                   // of the exit, and of the search
  ProcessIdentity source;              // whose end this proves
  uint64_t kill_sent_ns = 0;
  uint64_t tasks_stopped_ns = 0;
  uint64_t exited_ns = 0;
  HolderSearch search;
  std::string kernel_release;

  // The source's process has exited, and after that each inode of `memory_inodes` (at least one)
  // was searched for and found with the target and with nobody else beyond ourselves.
  bool complete(const std::vector<InodeId>& memory_inodes) const;
  friend bool operator==(const FenceProof&, const FenceProof&) = default;
};

struct Failure {
  std::string reason;   // UPPER_SNAKE, docs/reasons.md; empty if none
  std::string message;  // for people
  bool none() const { return reason.empty(); }
  friend bool operator==(const Failure&, const Failure&) = default;
};

// Of a migration as a whole, when the request names none: the guest runs all but a millisecond of
// it, so this only bounds how long a broken one may linger.
inline constexpr std::chrono::milliseconds kDefaultDeadline{60'000};
inline constexpr std::chrono::milliseconds kMaxDeadline{3'600'000};
// Of the blackout, when the request names none: 500 times what it takes, so that an overloaded host
// gets its time slices, and below the second at which a guest's peers begin to fail over.
inline constexpr std::chrono::milliseconds kDefaultHandoverTimeout{500};
inline constexpr std::chrono::milliseconds kMaxHandoverTimeout{10'000};

// Each costs the start of a VMM while the guest stands still; a third failure has a cause that a
// fourth will meet too.
inline constexpr uint32_t kMaxRescueAttempts = 3;
// A target that died after the source had paused and before the guest ran was replaced
// (docs/recovery.md).
struct Rescue {
  uint32_t attempts = 0;             // 0: none was needed
  ProcessIdentity dead_target;       // whose place the latest attempt's target took
  Failure cause;                     // why there had to be one
  bool context_from_target = false;  // MOVE was from the dead target's VM, else the source's
  // Why attempts failed, oldest first: the latest kMaxRescueAttempts of them, as each resolve
  // makes one more.
  std::vector<Failure> failed_attempts = {};
  friend bool operator==(const Rescue&, const Rescue&) = default;
};
void NoteFailedAttempt(const Failure& why, Rescue* rescue);

struct MigrationRequest {
  std::string request_id;  // caller's, optional; same id = same migration
  std::string vm_id;
  std::string target_profile;
  FencePolicy fence_policy = FencePolicy::kUnspecified;
  std::chrono::milliseconds handover_timeout{0};  // claim deadline of the blackout; 0 = default
  std::chrono::milliseconds deadline{0};          // of the whole migration; 0 = default
  bool validate_only = false;
  std::string requested_by;  // peer credentials: "uid=0 pid=123"
  friend bool operator==(const MigrationRequest&, const MigrationRequest&) = default;
};

// The private step inside a state; the machine's real state. Append only (journal).
enum class Step : uint8_t {
  kQueued = 1,             // PENDING
  kPreflight = 2,          // PREPARING
  kLaunching = 3,          // PREPARING: starting the target, until its HELLO
  kPreparingTarget = 4,    // PREPARING: PREPARE sent; layouts compared on the answer
  kArming = 5,             // PREPARING: ARM_TARGET, ARM_SOURCE
  kHandingOver = 6,        // HANDING_OVER: START sent; watching the verdict
  kFirstRun = 7,           // COMPLETING: verdict RUNNING; waiting for the target's first run
  kFencing = 8,            // COMPLETING: source released, killed, proven gone
  kAborting = 9,           // ROLLING_BACK: verdict to ABORTED, source resumes
  kDiscardingTarget = 10,  // ROLLING_BACK: target killed and reaped
  kDone = 11,              // terminal
  // docs/recovery.md
  kRecovering = 12,         // ROLLING_BACK: a restarted daemon finds out how things stand
  kRescuing = 13,           // ROLLING_BACK: neither side can run the guest; a new target is built
  kRescueHandingOver = 14,  // ROLLING_BACK: the new target is given the saved state
  kUnresolved = 15,         // INDETERMINATE: nothing is done until somebody asks again
};
inline constexpr size_t kStepCount = 15;
const char* StepName(Step step);

struct Migration {
  std::string id;  // "m-" + 16 hex digits, never re-used
  MigrationRequest request;
  MigrationState state = MigrationState::kPending;
  Step step = Step::kQueued;
  GuestOwner owner = GuestOwner::kSource;
  uint64_t revision = 0;  // 1 when admitted, +1 per transition
  bool cancel_requested = false;
  Strategy strategy = Strategy::kMap;  // valid from the end of preflight
  FencePolicy fence_policy = FencePolicy::kUnspecified;
  VmType vm_type = VmType::kDefault;
  std::vector<PreflightCheck> preflight;
  ProcessIdentity source;
  ProcessIdentity target;
  std::string source_vmm;  // "rehome-vmm 1.0"
  std::string target_vmm;
  uint64_t memory_bytes = 0;
  uint32_t vcpu_count = 0;
  uint64_t layout_digest = 0;
  // Of the guest's memory, each once, from the end of preflight: what the fence searches for, also
  // when a restarted daemon has no descriptor of it.
  std::vector<InodeId> memory_inodes;
  // CLOCK_MONOTONIC when both sides were armed, just before START; 0 before. PhaseTimes before it
  // are lies.
  uint64_t armed_ns = 0;
  // The step in which a daemon ended and another took over, of the last time that this happened in
  // another step than kRecovering; empty if it never did.
  std::optional<Step> interrupted_step;
  uint32_t restarts = 0;  // daemons that ended while it was unfinished
  Rescue rescue;
  PhaseTimes phases{};
  FenceProof fence;
  // First cause wins; but a cancel is no failure, and one that follows it takes its place.
  Failure failure;
  MigrationState outcome_after_rollback = MigrationState::kFailed;  // or kCancelled
  // The first transition from the blackout on that could not be journalled. The migration went on,
  // but for what must be on record before it is begun (Announce() of driver.cc).
  Failure journal_failure;
  int64_t create_time_unix_ns = 0;
  int64_t end_time_unix_ns = 0;
  std::string boot_id;  // of the host; nothing of a migration survives a reboot
  friend bool operator==(const Migration&, const Migration&) = default;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_MIGRATION_H_
