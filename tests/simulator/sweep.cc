// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sweep.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace rehome::sim {
namespace {

// The only guest's source is the first process, its target the second.
constexpr size_t kSource = 1;
constexpr size_t kFirstTarget = 2;

Plan OneGuest(bool moves, bool service_manager) {
  Plan plan;
  plan.guests = {{.vm_id = "vm-0",
                  .moves = moves,
                  .policy = moves ? FencePolicy::kKernel : FencePolicy::kBeforeResume}};
  plan.service_manager = service_manager;
  return plan;
}

Plan TargetDiesAt(TargetAt at, bool moves, bool service_manager) {
  Plan plan = OneGuest(moves, service_manager);
  plan.before_step = [at](World& world, Process& process) {
    if (process.number == kFirstTarget && process.target.at == at) world.Crash(process);
  };
  return plan;
}

Plan TargetHangsAt(TargetAt at, bool moves) {
  Plan plan = OneGuest(moves, true);
  plan.before_step = [at](World& world, Process& process) {
    if (process.number == kFirstTarget && process.target.at == at) world.Hang(process, 0);
  };
  return plan;
}

Plan AfterResume() {
  Plan plan = OneGuest(false, true);
  plan.guests[0].policy = FencePolicy::kAfterResume;
  return plan;
}

Plan RefusedByPreflight() {
  Plan plan = OneGuest(true, true);
  plan.guests[0].unsupported = true;
  return plan;
}

Plan SourceDiesAt(SourceAt at) {
  Plan plan = OneGuest(false, true);
  plan.before_step = [at](World& world, Process& process) {
    if (process.number == kSource && process.source.at == at) world.Crash(process);
  };
  return plan;
}

// Once. `for_long`: 0 is for good.
Plan SourceHangsAt(SourceAt at, Micros for_long) {
  Plan plan = OneGuest(false, true);
  plan.before_step = [at, for_long](World& world, Process& process) {
    const bool first = world.guests[0].hangs == 0;
    if (process.number == kSource && process.source.at == at && first) {
      world.Hang(process, for_long);
    }
  };
  return plan;
}

// The first target and each that takes its place, until a client asks for one more.
Plan EveryRescueFails() {
  constexpr size_t kLast = kFirstTarget + kMaxRescueAttempts;
  Plan plan = OneGuest(true, true);
  plan.before_step = [](World& world, Process& process) {
    const bool doomed = process.number >= kFirstTarget && process.number <= kLast;
    if (doomed && process.target.at == TargetAt::kCommitted) world.Crash(process);
  };
  return plan;
}

// The source takes its time to read START, so that the cancel comes while the verdict is open.
Plan CancelledInTime() {
  constexpr Micros kSlow = 50 * kMillisecond;
  Plan plan = OneGuest(false, true);
  plan.before_step = [](World& world, Process& process) {
    const bool first = world.guests[0].hangs == 0;
    if (process.source.start_pending && first) world.Hang(process, kSlow);
  };
  plan.cancel_when = [](const Process& process) { return process.source.start_pending; };
  return plan;
}

std::string Describe(const std::vector<DeathAtAppend>& deaths) {
  std::string text = "the daemon ends";
  for (const DeathAtAppend& death : deaths) {
    absl::StrAppend(&text, death.after ? " after" : " before", " append ", death.append);
  }
  return text;
}

class Sweeper {
 public:
  explicit Sweeper(const Plan& plan) : plan_(plan) {}

  // Adds one more crash to `deaths`, at every place where there is one left, and so on.
  void Go(const std::vector<DeathAtAppend>& deaths, int more) {
    plan_.daemon_dies_by_append = deaths;
    const Result result = Simulate(plan_);
    ++swept_.cases;
    if (!result.violation.empty()) {
      swept_.violations.push_back(absl::StrCat(Describe(deaths), ": ", result.violation));
    }
    if (more == 0) return;
    const size_t first = deaths.empty() ? 1 : deaths.back().append + 1;
    for (size_t append = first; append <= result.appends; ++append) {
      for (const bool after : {false, true}) {
        std::vector<DeathAtAppend> next = deaths;
        next.push_back({append, after});
        Go(next, more - 1);
      }
    }
  }
  SweepResult Take() { return std::move(swept_); }

 private:
  Plan plan_;
  SweepResult swept_;
};

}  // namespace

std::vector<Story> Stories() {
  // Longer than a daemon looks for who has the guest, shorter than the run.
  constexpr Micros kLongHang = 25 * kSecond;
  std::vector<Story> stories = {
      {"Success", OneGuest(false, true)},
      {"SuccessWithMove", OneGuest(true, true)},
      {"SuccessWithoutStore", OneGuest(true, false)},
      {"CancelInTime", CancelledInTime(), MigrationState::kCancelled},
      {"TargetHangsWithTheClaim", TargetHangsAt(TargetAt::kClaimed, false),
       MigrationState::kFailed},
      {"TargetDiesWithTheClaim", TargetDiesAt(TargetAt::kClaimed, false, true),
       MigrationState::kFailed},
      {"TargetDiesOnceTheSourceIsFenced", TargetDiesAt(TargetAt::kFenced, false, true)},
      {"TargetHangsAfterMove", TargetHangsAt(TargetAt::kMoved, true)},
      {"Rescue", TargetDiesAt(TargetAt::kCommitted, true, true)},
      {"RescueBetweenMoveAndCommit", TargetDiesAt(TargetAt::kMoved, true, true)},
      {"RescueWithoutStore", TargetDiesAt(TargetAt::kCommitted, true, false)},
      {"SuccessAfterResume", AfterResume()},
      {"RefusedByPreflight", RefusedByPreflight(), MigrationState::kFailed},
      {"SourceDiesInThePause", SourceDiesAt(SourceAt::kSaving), MigrationState::kFailed},
      {"SourceDiesWithItsStateSaved", SourceDiesAt(SourceAt::kWatching)},
      {"SourceHangsWithItsStateSaved", SourceHangsAt(SourceAt::kWatching, 0)},
      {"SourceHangsForGoodInThePause", SourceHangsAt(SourceAt::kSaving, 0),
       MigrationState::kIndeterminate, true},
      {"SourceHangsInThePauseAndIsAskedAgain", SourceHangsAt(SourceAt::kSaving, kLongHang),
       MigrationState::kFailed, true},
      {"EveryRescueFailsUntilSomebodyAsksAgain", EveryRescueFails(), MigrationState::kSucceeded,
       true},
  };
  return stories;
}

SweepResult Sweep(const Plan& plan) {
  Sweeper sweeper(plan);
  sweeper.Go({}, 2);
  return sweeper.Take();
}

}  // namespace rehome::sim
