// SPDX-License-Identifier: Apache-2.0
//
// The words of a handover block: who wins, who waits, who is woken.
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/futex.h"
#include "vmm/agent/handover_block_fixture.h"

namespace rehome {
namespace {

class HandoverWords : public HandoverBlockFixture {};

// ---- deadlines ----

TEST_F(HandoverWords, AWordThatNeverStandsStillHidesNoDeadlineThatHasPassed) {
  // What a waiter meets whose peer writes to the word between its look and the kernel's.
  const uint32_t* word = &block_.shared->verdict_word;
  const uint32_t seen = REHOME_VERDICT_OPEN + 100;
  EXPECT_EQ(rehome_futex_wait(word, seen, 1, Past()), -ETIMEDOUT);
  EXPECT_EQ(rehome_futex_wait(word, seen, 1, Soon()), 0);
  EXPECT_EQ(rehome_futex_wait(word, seen, 1, /*deadline_ns=*/0), 0);
}

// ---- verdict ----

bool TableHas(uint32_t from, uint32_t to) {
  static const std::vector<std::pair<uint32_t, uint32_t>> kTable = {
      {REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED},
      {REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED},
      {REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED},
      {REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED},
      {REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING},
      {REHOME_VERDICT_COMMITTED, REHOME_VERDICT_ABORTED},
  };
  for (const auto& edge : kTable) {
    if (edge.first == from && edge.second == to) return true;
  }
  return false;
}

const std::vector<uint32_t> kEveryVerdict = {0, 1, 2, 3, 4, 5, 6, 31, 32, UINT32_MAX};

TEST_F(HandoverWords, RunningIsEnteredFromCommittedOnly) {
  for (uint32_t from : kEveryVerdict) {
    SetVerdict(from);
    const bool committed = from == REHOME_VERDICT_COMMITTED;
    EXPECT_EQ(rehome_block_set_running(&block_), committed ? 0 : -EAGAIN) << from;
    EXPECT_EQ(rehome_block_verdict(&block_), committed ? uint32_t{REHOME_VERDICT_RUNNING} : from);
  }
}

TEST_F(HandoverWords, WhoeverWaitsForRunningIsToldOfIt) {
  SetVerdict(REHOME_VERDICT_COMMITTED);
  // Without a deadline: if nobody told it, this would not end.
  std::thread waiter(
      [this] { rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, /*deadline_ns=*/0); });
  ASSERT_EQ(rehome_block_set_running(&block_), 0);
  rehome_block_tell_running(&block_);
  waiter.join();
}

TEST_F(HandoverWords, MovesAlongTheEdgesOfTheTableAndNoOthers) {
  for (uint32_t from : kEveryVerdict) {
    for (uint32_t to : kEveryVerdict) {
      SetVerdict(from);
      int result = rehome_block_move_verdict(&block_, from, to);
      EXPECT_EQ(rehome_verdict_has_edge(from, to) != 0, TableHas(from, to)) << from << to;
      EXPECT_EQ(result, TableHas(from, to) ? 0 : -EPERM) << from << " to " << to;
      EXPECT_EQ(rehome_block_verdict(&block_), TableHas(from, to) ? to : from);
    }
  }
}

TEST_F(HandoverWords, DoesNotMoveAVerdictThatIsNotTheOneNamed) {
  for (uint32_t now : kEveryVerdict) {
    SetVerdict(now);
    if (now == REHOME_VERDICT_OPEN) continue;
    EXPECT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED),
              -EAGAIN);
    EXPECT_EQ(rehome_block_verdict(&block_), now);
  }
}

// As many rounds as a quiet machine makes in a tenth of a second. Where every turn waits for a
// processor, so many that both have won some, and not more than fit into the time.
constexpr int kMaxRounds = 20'000;
constexpr int kMinRounds = 100;
constexpr std::chrono::seconds kRaceTime{5};

struct Race {
  int rounds = 0;
  int decided = 0;  // rounds that exactly one of the two won
};

// Runs `mine` here and `theirs` in another process at the same moment, again and again; each says
// whether it won.
Race RaceProcesses(const std::function<void()>& reset, const std::function<bool()>& mine,
                   const std::function<bool()>& theirs) {
  constexpr int kOver = -1;
  struct Shared {
    std::atomic<int> started, finished;
    std::atomic<bool> they_won;
  };
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Shared* shared = new (memory) Shared();
  pid_t child = fork();
  if (child == 0) {
    for (int round = 1;; round++) {
      int started = shared->started.load();
      for (; started != round && started != kOver; started = shared->started.load()) sched_yield();
      if (started == kOver) _exit(0);
      shared->they_won.store(theirs());
      shared->finished.store(round);
    }
  }
  Race race;
  const auto end = std::chrono::steady_clock::now() + kRaceTime;
  while (race.rounds < kMaxRounds &&
         (race.rounds < kMinRounds || std::chrono::steady_clock::now() < end)) {
    reset();
    shared->started.store(++race.rounds);
    bool i_won = mine();
    while (shared->finished.load() != race.rounds) sched_yield();
    race.decided += i_won != shared->they_won.load();
  }
  shared->started.store(kOver);
  waitpid(child, nullptr, 0);
  munmap(memory, sizeof(Shared));
  return race;
}

TEST_F(HandoverWords, HasExactlyOneWinnerWhenTwoProcessesRaceForTheVerdict) {
  auto move_to = [&](uint32_t to) {
    return rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, to) == 0;
  };
  const Race race = RaceProcesses([&] { SetVerdict(REHOME_VERDICT_OPEN); },
                                  [&] { return move_to(REHOME_VERDICT_ABORTED); },
                                  [&] { return move_to(REHOME_VERDICT_CLAIMED); });
  EXPECT_EQ(race.decided, race.rounds);
}

TEST_F(HandoverWords, CondemnsExactlyOneSideWhenBothAreAccused) {
  auto condemn = [&](rehome_side side) { return rehome_block_condemn(&block_, side) == 0; };
  const Race race = RaceProcesses(
      [&] { SetWord(&block_.shared->fence_word, REHOME_FENCE_STATE_OPEN); },
      [&] { return condemn(REHOME_SIDE_SOURCE); }, [&] { return condemn(REHOME_SIDE_TARGET); });
  EXPECT_EQ(race.decided, race.rounds);
}

TEST_F(HandoverWords, WakesWhoeverWaitsForAVerdictInAnotherProcess) {
  pid_t child = fork();
  if (child == 0) {
    int woken = rehome_block_wait_verdict(&block_, REHOME_VERDICT_OPEN, Soon());
    int final = rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, Soon());
    _exit(woken == 0 && final == 0 && rehome_block_verdict(&block_) == REHOME_VERDICT_RUNNING ? 0
                                                                                              : 1);
  }
  EXPECT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED), 0);
  EXPECT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED),
            0);
  EXPECT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING),
            0);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(HandoverWords, StopsWaitingAtTheDeadline) {
  uint64_t deadline = rehome_monotonic_ns() + 5000000;
  EXPECT_EQ(rehome_block_wait_verdict(&block_, REHOME_VERDICT_OPEN, deadline), -ETIMEDOUT);
  EXPECT_GE(rehome_monotonic_ns(), deadline);
  EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, Past()), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 1000), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Past()), -ETIMEDOUT);
}

TEST_F(HandoverWords, AnswersAtOnceWhatIsSoAlreadyWhateverTheDeadline) {
  EXPECT_EQ(rehome_block_wait_verdict(&block_, REHOME_VERDICT_CLAIMED, Past()), 0);
  EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICT_BIT(REHOME_VERDICT_OPEN), Past()),
            0);
  ASSERT_EQ(rehome_block_set_source_ready(&block_, 1), 0);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), 0);
  rehome_block_set_fence_proven(&block_);
  EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Past()), 0);
}

TEST_F(HandoverWords, DoesNotTakeGarbageForAVerdictThatIsWaitedFor) {
  for (uint32_t garbage : {0u, 32u + REHOME_VERDICT_RUNNING, UINT32_MAX}) {
    SetVerdict(garbage);
    EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, Past()), -ETIMEDOUT);
  }
}

// ---- source ready ----

TEST_F(HandoverWords, WakesEveryThreadThatWaitsForTheState) {
  std::vector<std::thread> vcpus;
  std::atomic<int> ready = 0;
  for (uint64_t spin : {0, 0, 1000, 1000000}) {
    vcpus.emplace_back([&, spin] {
      if (rehome_block_wait_source_ready(&block_, Soon(), spin) == 0) ready++;
    });
  }
  EXPECT_EQ(rehome_block_set_source_ready(&block_, 77), 0);
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(ready.load(), 4);
  EXPECT_EQ(rehome_block_state_size(&block_), 77u);
}

TEST_F(HandoverWords, SendsEveryWaitingThreadAwayWhenTheVerdictIsAborted) {
  // Many rounds: the wake-up must not be lost whenever it comes.
  for (int round = 0; round < 2000; round++) {
    SetVerdict(REHOME_VERDICT_OPEN);
    SetWord(&block_.shared->source_ready_word, REHOME_SOURCE_NOT_READY);
    int result = 0;
    std::thread vcpu([&] { result = rehome_block_wait_source_ready(&block_, Soon(), 0); });
    ASSERT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
    vcpu.join();
    ASSERT_EQ(result, -ECANCELED);
  }
}

TEST_F(HandoverWords, AnnouncesNoStateAfterAnAbort) {
  ASSERT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  EXPECT_EQ(rehome_block_set_source_ready(&block_, 1), -ECANCELED);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

TEST_F(HandoverWords, SendsAwayWhoeverComesAfterAnAbortOfAReadyState) {
  ASSERT_EQ(rehome_block_set_source_ready(&block_, 1), 0);
  ASSERT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

TEST_F(HandoverWords, BelievesNoStateSizeBeyondTheCapacity) {
  EXPECT_EQ(rehome_block_set_source_ready(&block_, block_.state_capacity + 1), -EMSGSIZE);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_set_source_ready(&block_, block_.state_capacity), 0);
  EXPECT_EQ(rehome_block_state_size(&block_), block_.state_capacity);
  block_.shared->state_size = block_.state_capacity + 1;
  EXPECT_EQ(rehome_block_state_size(&block_), 0u);
}

TEST_F(HandoverWords, TakesGarbageInTheReadyWordForACancel) {
  SetWord(&block_.shared->source_ready_word, 77);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

// ---- fence ----

TEST_F(HandoverWords, GrantsEveryKillOfTheSideThatIsCondemnedAndNoneOfTheOther) {
  struct Case {
    uint32_t state;
    int source, target;
  };
  for (const Case& c :
       {Case{REHOME_FENCE_STATE_PROVEN, 0, -EPERM},
        Case{REHOME_FENCE_STATE_SOURCE_CONDEMNED, 0, -EPERM},
        Case{REHOME_FENCE_STATE_TARGET_CONDEMNED, -EPERM, 0}, Case{99, -EPERM, -EPERM}}) {
    SetWord(&block_.shared->fence_word, c.state);
    EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_SOURCE), c.source) << c.state;
    EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_TARGET), c.target) << c.state;
    EXPECT_EQ(rehome_block_fence_state(&block_), c.state);
  }
}

TEST_F(HandoverWords, WaitsOnForTheProofOfACondemnedSource) {
  std::thread target([&] { EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Soon()), 0); });
  EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_SOURCE), 0);
  rehome_block_set_fence_proven(&block_);
  target.join();
}

TEST_F(HandoverWords, SendsACondemnedTargetAway) {
  std::thread target(
      [&] { EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Soon()), -ECANCELED); });
  EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_TARGET), 0);
  target.join();
}

// ---- phases ----

TEST_F(HandoverWords, KeepsTheFirstStampOfAPhase) {
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_stamp(&block_, REHOME_PHASE_CLAIMED);
  rehome_block_read_phases(&block_, phases);
  uint64_t first = phases[REHOME_PHASE_CLAIMED];
  EXPECT_NE(first, 0u);
  rehome_block_stamp(&block_, REHOME_PHASE_CLAIMED);
  rehome_block_stamp_as(&block_, REHOME_PHASE_MOVED, REHOME_PHASE_CLAIMED);
  rehome_block_stamp_as(&block_, REHOME_PHASE_FENCED, REHOME_PHASE_RESTORED);
  rehome_block_stamp(&block_, static_cast<rehome_phase>(REHOME_PHASE_COUNT));
  rehome_block_read_phases(&block_, phases);
  EXPECT_EQ(phases[REHOME_PHASE_CLAIMED], first);
  EXPECT_EQ(phases[REHOME_PHASE_MOVED], first);
  EXPECT_GE(phases[REHOME_PHASE_FENCED], first);
  EXPECT_EQ(phases[REHOME_PHASE_RUNNING], 0u);
}

}  // namespace
}  // namespace rehome
