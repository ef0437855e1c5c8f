// SPDX-License-Identifier: Apache-2.0
//
// A host that exists only in memory: virtual time, VMM processes with agents, guests, and what the
// kernel does for them. Everything happens in events of one queue, drawn from one seed, so that a
// run can be repeated exactly. After each event the promises of docs/handover.md are checked.
//
// Not thread-safe: whoever runs the world has it alone.
#ifndef REHOME_TESTS_SIMULATOR_WORLD_H_
#define REHOME_TESTS_SIMULATOR_WORLD_H_

#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "daemon/testing/fake_vmm_link.h"
#include "daemon/vm_directory.h"
#include "tests/simulator/block.h"
#include "tests/simulator/random.h"

namespace rehome::sim {

// struct kvm: lives as long as anybody has a descriptor of it.
struct KvmVm {
  bool dead = false;  // something was MOVEd away from it
  bool has_context = false;
};

enum class SourceAt : uint8_t {
  kIdle,
  kHeld,
  kArmed,
  kPausing,
  kSaving,
  kWatching,
  kCondemns,
  kKills,
  kTakesBack,
  kHandedOver
};
enum class TargetAt : uint8_t {
  kNone,
  kLaunched,
  kPrepared,
  kWaiting,
  kClaimed,
  kRefuses,
  kMayMove,
  kMoved,
  kCommitted,
  kFencing,
  kReadsAgain,
  kKills,
  kProving,
  kFenced,
  kMayRun,
  kRuns,
  kLeaves
};

struct Process;

struct SourceSide {
  SourceAt at = SourceAt::kIdle;
  std::string migration;
  std::shared_ptr<Block> block;
  Process* target = nullptr;
  bool start_pending = false;  // START lies in its socket
  bool abort_wanted = false;
  bool stranded = false;
  bool killed = false;
  Micros claim_deadline = 0;
  Micros resolve_deadline = 0;
  uint32_t seen = 0;  // the verdict that it is about to take the guest back from
};

struct TargetSide {
  TargetAt at = TargetAt::kNone;
  std::string migration;
  std::shared_ptr<Block> block;
  Process* source = nullptr;
  std::shared_ptr<KvmVm> move_from;
  bool can_signal = true;
  bool killed = false;
  bool refused = false;
  bool first_run = false;  // a KVM_RUN has come back
  bool first_run_failed = false;
  Micros give_up_at = 0;  // 0: never
  Micros proving_until = 0;
};

struct Process {
  size_t number = 0;
  size_t guest = 0;
  ProcessIdentity identity;
  bool alive = true;
  bool hung = false;
  bool signalled = false;
  bool last_step_taken = false;
  bool runs_guest = false;
  bool connection_lost = false;
  Micros connected_at = 0;  // to the present daemon
  Micros slow_until = 0;    // the scheduler does not let it run before
  Micros slow_for = 0;      // all that it has been kept from running
  uint64_t progress = 0;    // of the guest, as this process has it
  std::shared_ptr<KvmVm> kvm;
  std::shared_ptr<FakeVmmLink> link;
  SourceSide source;
  TargetSide target;
};

struct Guest {
  std::string vm_id;
  bool moves = false;
  FencePolicy policy = FencePolicy::kUnspecified;
  bool unsupported = false;  // preflight finds that its host cannot move it
  // Its source's agent is without feature EXACT: it says that its VM is dead after any failure.
  bool old_agent = false;
  uint64_t progress = 1;
  // Who had the guest died of itself, so that it is lost by rights.
  bool holder_crashed = false;
  // Its source died between a refusing target's look at it and the swap: the verdict ABORTED cannot
  // tell that from a source that went on before it died, so nobody does.
  bool refused_without_source = false;
  // Nobody has run it since, and somebody could have gone on with it all the time; 0: it runs, or
  // nobody can.
  Micros still_since = 0;
  // Of the processes that ever had to do with it, without being killed.
  int crashes = 0;
  int hangs = 0;  // or were so slow that it could be taken for that (kTakenForHung)
};

// Chances are "one in N of the steps of an agent in a handover"; 0: never.
struct FaultPlan {
  uint64_t crash_one_in = 0;
  uint64_t hang_one_in = 0;
  uint64_t refuse_one_in = 0;
  uint64_t slow_one_in = 0;
  uint64_t probe_fails_one_in = 0;  // of the daemon's questions to a source
  int budget = 0;                   // crashes and hangs together
  Micros until = 0;
};

class World {
 public:
  explicit World(uint64_t seed) : random(seed) {}

  // ---- time ----
  Micros now() const { return now_; }
  void At(Micros when, std::function<void()> event);
  void After(Micros delay, std::function<void()> event) { At(now_ + delay, std::move(event)); }
  // Runs the next event, if it is not later than `limit`; else time passes to `limit`. False: that.
  bool RunNext(Micros limit);

  // ---- processes ----
  Process* StartVmm(size_t guest);  // a source, running the guest
  Process* LaunchTarget(size_t guest, const std::string& migration);
  void Kill(Process& process);
  void Crash(Process& process);
  void Hang(Process& process, Micros for_long);  // 0: for good
  void Exit(Process& process);
  Process* Find(const ProcessIdentity& identity);
  // Its library's thread reads requests; while it pauses the guest it does that and nothing else.
  bool Answers(const Process& process) const {
    const bool busy =
        process.source.at == SourceAt::kPausing || process.source.at == SourceAt::kSaving;
    return process.alive && !process.hung && !process.signalled && !busy &&
           process.connected_at <= now_;
  }

  // ---- guests ----
  void StartGuest(Process& process);
  void StopGuest(Process& process);
  const Process* RunnerOf(size_t guest) const;

  // ---- the daemon's side ----
  void ConnectAll(VmDirectory* vms);  // a daemon has started
  void DisconnectAll();               // it has ended
  void Register(Process& process);

  // ---- verdict on the run ----
  void Violate(const std::string& what);
  const std::string& violation() const { return violation_; }
  void Log(const std::string& line);
  const std::vector<std::string>& log() const { return log_; }

  Random random;
  FaultPlan faults;
  bool verbose = false;
  std::vector<Guest> guests;
  std::deque<Process> processes;  // addresses stay
  std::function<void(World&, Process&)> before_step;
  std::function<std::string(const Process&)> active_migration;  // of its guest, of the daemon
  uint64_t steps = 0;

 private:
  struct Event {
    Micros when;
    uint64_t order;
    std::function<void()> act;
    bool operator<(const Event& other) const {
      return when != other.when ? when > other.when : order > other.order;
    }
  };
  Process& NewProcess(size_t guest);
  void Die(Process& process);
  void ScheduleTick(Process& process);
  void Tick(Process& process);
  bool MeetsFault(Process& process);
  void Check();
  void CheckStandstill(size_t guest);

  Micros now_ = kSecond;  // 0 is "never"
  uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  VmDirectory* vms_ = nullptr;
  std::string violation_;
  std::vector<std::string> log_;
};

// One atomic step of an agent, as vmm/agent/verdict.c and source.c have it.
void StepSource(World& world, Process& process);
// The same of target_run.c and target.c.
void StepTarget(World& world, Process& process);
// Between the first act of the handover and its end; there the faults strike.
bool IsCritical(const Process& process);
const char* NameOf(SourceAt at);
const char* NameOf(TargetAt at);

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_WORLD_H_
