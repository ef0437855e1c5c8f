// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rehome::sim {
namespace {

// Within which a killed process is gone: some page tables to tear down, on a busy host.
constexpr Micros kMaxDying = 20 * kMillisecond;
// Agents of living processes connect again every 200 ms.
constexpr Micros kMaxReconnect = 250 * kMillisecond;
// Nothing is awaited of a process that runs a guest or idles.
constexpr Micros kIdleTick = 400 * kMillisecond;
// The shortest deadline at which anybody gives a process up: the source's, for the claim. All
// delays of a process together, because several can fall within one.
constexpr Micros kTakenForHung = 200 * kMillisecond;

}  // namespace

void World::At(Micros when, std::function<void()> event) {
  events_.push({std::max(when, now_), order_++, std::move(event)});
}

bool World::RunNext(Micros limit) {
  if (events_.empty() || events_.top().when > limit) {
    now_ = std::max(now_, limit);
    return false;
  }
  Event event = events_.top();
  events_.pop();
  now_ = event.when;
  ++steps;
  event.act();
  Check();
  return true;
}

Process& World::NewProcess(size_t guest) {
  Process& process = processes.emplace_back();
  process.number = processes.size();
  process.guest = guest;
  process.identity = {static_cast<int32_t>(1000 + process.number), process.number, process.number};
  process.kvm = std::make_shared<KvmVm>();
  process.link = std::make_shared<FakeVmmLink>(process.identity);
  process.connected_at = now_;
  ScheduleTick(process);
  return process;
}

Process* World::StartVmm(size_t guest) {
  Process& process = NewProcess(guest);
  process.kvm->has_context = guests[guest].moves;
  process.progress = guests[guest].progress;
  StartGuest(process);
  return &process;
}

Process* World::LaunchTarget(size_t guest, const std::string& migration) {
  Process& process = NewProcess(guest);
  process.target.at = TargetAt::kLaunched;
  process.target.migration = migration;
  Log(absl::StrCat("p", process.number, " launched for ", guests[guest].vm_id));
  return &process;
}

void World::Kill(Process& process) {
  if (!process.alive || process.signalled) return;
  process.signalled = true;
  Log(absl::StrCat("p", process.number, " gets SIGKILL"));
  After(random.Between(1, random.OneIn(8) ? kMaxDying : 300), [this, &process] { Die(process); });
}

void World::Die(Process& process) {
  if (!process.alive) return;
  process.alive = false;
  process.runs_guest = false;
  Log(absl::StrCat("p", process.number, " is dead"));
  // What only a process refers to goes with it.
  process.source.block.reset();
  process.target.block.reset();
  process.target.move_from.reset();
  process.link->Close();
  if (vms_ != nullptr) vms_->Unregister(process.link.get());
}

void World::Exit(Process& process) { Die(process); }

void World::Crash(Process& process) {
  if (!process.alive) return;
  Guest& guest = guests[process.guest];
  ++guest.crashes;
  const Block* own = process.source.block.get();
  // Paused with a state that is not complete, or about to take the guest back: it is the only one.
  const bool has_it = own != nullptr && process.source.at >= SourceAt::kPausing &&
                      (own->ready == Ready::kNo || own->verdict == REHOME_VERDICT_ABORTED);
  const bool took_it =
      process.target.block != nullptr && process.target.block->verdict == REHOME_VERDICT_RUNNING;
  if (process.runs_guest || has_it || took_it) guest.holder_crashed = true;
  Log(absl::StrCat("p", process.number, " crashes"));
  Die(process);
}

void World::Hang(Process& process, Micros for_long) {
  if (!process.alive || process.hung) return;
  process.hung = true;
  ++guests[process.guest].hangs;
  Log(absl::StrCat("p", process.number, " hangs for ",
                   for_long == 0 ? "good" : absl::StrCat(for_long, " us")));
  if (for_long == 0) return;
  After(for_long, [this, &process] {
    if (process.signalled) return;
    process.hung = false;
    if (process.alive) Log(absl::StrCat("p", process.number, " comes round"));
  });
}

Process* World::Find(const ProcessIdentity& identity) {
  for (Process& process : processes) {
    if (process.identity == identity) return &process;
  }
  return nullptr;
}

void World::StartGuest(Process& process) {
  Guest& guest = guests[process.guest];
  const std::string who = absl::StrCat("p", process.number, " starts ", guest.vm_id);
  Log(absl::StrCat(who, " at ", process.progress));
  if (const Process* other = RunnerOf(process.guest); other != nullptr) {
    Violate(absl::StrCat(who, ", which p", other->number, " runs"));
  }
  if (process.progress != guest.progress) {
    Violate(absl::StrCat(who, " at ", process.progress, ", but it had come to ", guest.progress));
  }
  if (process.kvm->dead || (guest.moves && !process.kvm->has_context)) {
    Violate(absl::StrCat(who, " without its context"));
  }
  process.runs_guest = true;
  // So that nobody can start from here again.
  process.progress = ++guest.progress;
}

void World::StopGuest(Process& process) {
  process.progress = ++guests[process.guest].progress;
  process.runs_guest = false;
  Log(absl::StrCat("p", process.number, " pauses at ", process.progress));
}

const Process* World::RunnerOf(size_t guest) const {
  for (const Process& process : processes) {
    if (process.guest == guest && process.runs_guest) return &process;
  }
  return nullptr;
}

void World::Check() {
  for (size_t i = 0; i < guests.size(); ++i) {
    int runners = 0;
    for (const Process& process : processes) {
      if (process.guest != i || !process.runs_guest) continue;
      ++runners;
      if (guests[i].moves && (!process.kvm->has_context || process.kvm->dead)) {
        Violate(absl::StrCat("p", process.number, " runs ", guests[i].vm_id, " without context"));
      }
    }
    if (runners > 1) Violate(absl::StrCat(runners, " processes run ", guests[i].vm_id));
    CheckStandstill(i);
  }
}

void World::ConnectAll(VmDirectory* vms) {
  vms_ = vms;
  for (Process& process : processes) {
    if (!process.alive) continue;
    process.link = std::make_shared<FakeVmmLink>(process.identity);
    process.connected_at = now_ + random.Between(0, kMaxReconnect);
    At(process.connected_at, [this, &process, vms] {
      if (vms_ == vms && process.alive) Register(process);
    });
  }
}

void World::DisconnectAll() {
  vms_ = nullptr;
  for (Process& process : processes) process.connection_lost = process.alive;
}

// As the agents do it: who has a guest announces it, a target only after its first run.
void World::Register(Process& process) {
  if (vms_ == nullptr || process.source.at == SourceAt::kHandedOver) return;
  if (process.target.at != TargetAt::kNone && process.target.at != TargetAt::kRuns) return;
  VmEntry vm;
  vm.vm_id = guests[process.guest].vm_id;
  vm.vcpu_count = 1;
  vm.process = process.identity;
  const std::string active = active_migration ? active_migration(process) : "";
  const bool of_it = active == process.target.migration;
  (void)vms_->Register(vm, of_it ? active : "", process.link);
}

void World::ScheduleTick(Process& process) {
  Micros delay = random.Between(1, kIdleTick);
  if (IsCritical(process)) {
    // Where it only waits, it looks less often.
    const bool waits = process.source.at == SourceAt::kWatching ||
                       process.target.at == TargetAt::kProving ||
                       process.target.at == TargetAt::kWaiting;
    delay = random.Between(2, waits && !random.OneIn(3) ? 10 * kMillisecond : 200);
    if (faults.slow_one_in > 0 && now_ < faults.until && random.OneIn(faults.slow_one_in)) {
      delay = random.Between(kMillisecond, 1800 * kMillisecond);
      process.slow_until = now_ + delay;
      process.slow_for += delay;
      if (process.slow_for >= kTakenForHung) ++guests[process.guest].hangs;
    }
  }
  // Nobody looks at it meanwhile.
  if (process.hung) delay = random.Between(1, 20 * kMillisecond);
  After(delay, [this, &process] { Tick(process); });
}

void World::Tick(Process& process) {
  if (!process.alive) return;
  if (!process.hung && !process.last_step_taken) {
    // A killed process may be in a system call on another CPU, and finish that.
    if (process.signalled) process.last_step_taken = true;
    if (before_step != nullptr) before_step(*this, process);
    if (process.alive && !process.hung && !MeetsFault(process)) {
      StepSource(*this, process);
      StepTarget(*this, process);
    }
  }
  if (process.alive) ScheduleTick(process);
}

bool World::MeetsFault(Process& process) {
  if (!IsCritical(process) || faults.budget == 0 || now_ > faults.until) return false;
  if (faults.crash_one_in > 0 && random.OneIn(faults.crash_one_in)) {
    --faults.budget;
    Crash(process);
    return true;
  }
  if (faults.hang_one_in > 0 && random.OneIn(faults.hang_one_in)) {
    --faults.budget;
    Hang(process, random.OneIn(4) ? 0 : random.Between(kMillisecond, 6 * kSecond));
    return true;
  }
  return false;
}

void World::Violate(const std::string& what) {
  if (violation_.empty()) violation_ = absl::StrCat("t=", now_, ": ", what);
  Log(absl::StrCat("VIOLATION: ", what));
}

void World::Log(const std::string& line) {
  if (verbose) log_.push_back(absl::StrCat(now_, " us  ", line));
}

}  // namespace rehome::sim
