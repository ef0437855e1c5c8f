// SPDX-License-Identifier: Apache-2.0
//
// What a daemon makes of a migration that an earlier one left: what counts for more than what, and
// that it concludes nothing from a look that failed.
#include "daemon/recovery_effects.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "daemon/machine.h"
#include "daemon/process_identity.h"
#include "daemon/testing/effects_world.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

constexpr SourceSight kEverySight[] = {SourceSight::kDead,   SourceSight::kRunsGuest,
                                       SourceSight::kPaused, SourceSight::kVmDead,
                                       SourceSight::kSilent, SourceSight::kVmDeadUnproven};
static_assert(std::size(kEverySight) == kSourceSightCount);

TEST(EventOfTest, ATargetThatRunsTheGuestCountsForMoreThanAnyRecordAndAnythingElseThatIsSeen) {
  for (bool before_start : {false, true}) {
    for (SourceSight source : kEverySight) {
      EXPECT_EQ(EventOf({.before_start = before_start,
                         .source = source,
                         .target_runs_guest = true,
                         .verdict = REHOME_VERDICT_OPEN}),
                Event::kVerdictRunning);
      EXPECT_EQ(EventOf({.before_start = before_start,
                         .source = source,
                         .target_dead = true,
                         .verdict = REHOME_VERDICT_RUNNING}),
                Event::kVerdictRunning);
    }
  }
}

// The record can be older than what is seen: the journal's tail was torn.
TEST(EventOfTest, AGuestThatIsSeenToBePausedHasBeenStartedWhateverTheRecordSays) {
  for (uint32_t verdict : {REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED}) {
    for (SourceSight source : kEverySight) {
      EXPECT_EQ(EventOf({.before_start = true, .source = source, .verdict = verdict}),
                Event::kStuck)
          << verdict << " with source " << static_cast<int>(source);
    }
  }
  for (SourceSight source :
       {SourceSight::kPaused, SourceSight::kVmDead, SourceSight::kVmDeadUnproven}) {
    EXPECT_EQ(EventOf({.before_start = true, .source = source, .verdict = REHOME_VERDICT_OPEN}),
              Event::kStuck);
    EXPECT_EQ(EventOf({.before_start = true, .source = source}), Event::kUnreachable);
  }
}

TEST(EventOfTest, WhereNothingSpeaksAgainstTheRecordAGuestThatWasNotStartedIsWhereItWas) {
  for (std::optional<uint32_t> verdict :
       {std::optional<uint32_t>(), std::optional<uint32_t>(REHOME_VERDICT_OPEN),
        std::optional<uint32_t>(REHOME_VERDICT_ABORTED)}) {
    for (SourceSight source : {SourceSight::kRunsGuest, SourceSight::kSilent}) {
      EXPECT_EQ(EventOf({.before_start = true, .source = source, .verdict = verdict}),
                Event::kSourceResumed);
    }
    EXPECT_EQ(EventOf({.before_start = true, .source = SourceSight::kDead, .verdict = verdict}),
              Event::kSourceLost);
  }
}

TEST(EventOfTest, TwoDeathsAreNoLossWhileALaterRecordOrAnEscrowMayBeOutOfSight) {
  for (bool before_start : {false, true}) {
    Findings found = {
        .before_start = before_start, .source = SourceSight::kDead, .target_dead = true};
    EXPECT_EQ(EventOf(found), Event::kSourceLost);
    found.in_doubt = true;
    EXPECT_EQ(EventOf(found), Event::kUnreachable);
    found.verdict = REHOME_VERDICT_CLAIMED;
    EXPECT_EQ(EventOf(found), Event::kStuck) << "who has the block knows";
  }
}

// What one piece less is worth: nothing. Over everything that can be found without a verdict.
TEST(EventOfTest, AGuestIsCalledLostWithItsSourceAliveOnAFullProofOnly) {
  int lost = 0;
  for (SourceSight source : kEverySight) {
    for (unsigned bits = 0; bits < 64; ++bits) {
      const Findings found = {.before_start = (bits & 1) != 0,
                              .source = source,
                              .target_dead = (bits & 2) != 0,
                              .target_runs_guest = (bits & 4) != 0,
                              .moves = (bits & 8) != 0,
                              .target_on_record = (bits & 16) != 0,
                              .nothing_is_left = (bits & 32) != 0};
      const bool called_lost = EventOf(found) == Event::kSourceLost;
      if (source == SourceSight::kDead) {
        EXPECT_FALSE(IsEmptiedForGood(found)) << bits;
        continue;
      }
      EXPECT_EQ(IsEmptiedForGood(found), called_lost) << static_cast<int>(source) << " " << bits;
      const bool proven = source == SourceSight::kVmDead && bits == (2 | 8 | 16 | 32);
      EXPECT_EQ(called_lost, proven) << static_cast<int>(source) << " " << bits;
      if (called_lost) ++lost;
    }
  }
  EXPECT_EQ(lost, 1);
  // A verdict that is known is settled by what it says.
  for (uint32_t verdict : {REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED,
                           REHOME_VERDICT_ABORTED}) {
    EXPECT_EQ(EventOf({.source = SourceSight::kVmDead,
                       .target_dead = true,
                       .verdict = verdict,
                       .moves = true,
                       .target_on_record = true,
                       .nothing_is_left = true}),
              Event::kStuck);
  }
}

// ---- a look that fails ----

// A thread that leads no process: as long as it lives it is neither a process nor none, which is
// how a descriptor that cannot be had looks as well.
class NoProcess {
 public:
  NoProcess() : thread_([this] { Live(); }) {
    while (tid_ == 0) std::this_thread::yield();
  }
  ~NoProcess() {
    leaves_ = true;
    thread_.join();
  }
  // Until whoever called this sleeps, which he does only between two looks.
  void LeaveOnceAsleep() { sleeper_ = static_cast<pid_t>(syscall(SYS_gettid)); }
  pid_t tid() const { return tid_; }

 private:
  void Live() {
    tid_ = static_cast<pid_t>(syscall(SYS_gettid));
    while (!leaves_ && !(sleeper_ != 0 && IsAsleep(sleeper_))) std::this_thread::yield();
  }
  static bool IsAsleep(pid_t tid) {
    std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/syscall");
    long number = -1;  // "running" is no number
    return static_cast<bool>(file >> number) && number == SYS_clock_nanosleep;
  }
  std::atomic<pid_t> tid_ = 0, sleeper_ = 0;
  std::atomic<bool> leaves_ = false;
  std::thread thread_;
};

Migration Interrupted(const EffectsWorld& world, pid_t source) {
  Migration record = world.NewRecord();
  record.restarts = 1;
  record.interrupted_step = Step::kHandingOver;
  record.step = Step::kRecovering;
  record.source = {.pid = source, .start_ticks = 1};
  return record;
}

TEST(RebuildTest, AProcessThatCannotBeLookedAtIsLookedAtAgain) {
  EffectsWorld world;
  NoProcess source;
  const Migration record = Interrupted(world, source.tid());
  source.LeaveOnceAsleep();
  const Outcome outcome = world.Perform(Effect::kRecover, record);
  EXPECT_EQ(outcome.event, Event::kSourceLost) << "there is no such process, and no target";
}

TEST(RebuildTest, AProcessWithThePidOnRecordAndAnotherStartIsNotTheOneOnRecord) {
  const auto recover = [](uint64_t later) {
    EffectsWorld world;
    Migration record = Interrupted(world, world.source_child.pid());
    record.source = *IdentifyProcess(world.source_child.Pidfd().borrow());
    record.source.start_ticks += later;
    return world.Perform(Effect::kRecover, record).event;
  };
  EXPECT_EQ(recover(0), Event::kUnreachable) << "it lives, and has not connected";
  EXPECT_EQ(recover(1), Event::kSourceLost);
}

TEST(RebuildTest, NothingIsConcludedOfAProcessThatCannotBeLookedAtForGood) {
  EffectsWorld world;
  NoProcess source;
  const Outcome outcome = world.Perform(Effect::kRecover, Interrupted(world, source.tid()));
  EXPECT_EQ(outcome.event, Event::kUnreachable);
  EXPECT_FALSE(outcome.cause.none());
  EXPECT_NE(outcome.cause.reason, "OWNER_UNKNOWN") << "nobody was asked";
}

}  // namespace
}  // namespace rehome
