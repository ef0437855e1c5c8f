// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/handover_block.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

constexpr uint64_t kSecond = 1000000000;
// Bound of waits for what must happen.
constexpr uint64_t kPatience = 20 * kSecond;

rehome_block_params GoodParams() {
  return {.migration_id = "m-1",
          .state_capacity = 20000,
          .claim_timeout_ns = kSecond,
          .resolve_timeout_ns = 2 * kSecond,
          .fence_policy = REHOME_FENCE_AFTER_RESUME,
          .strategy = REHOME_STRATEGY_MAP};
}

class HandoverBlock : public testing::Test {
 protected:
  void SetUp() override {
    rehome_block_params params = GoodParams();
    fd_ = rehome_block_create(&params);
    ASSERT_GE(fd_, 0);
    ASSERT_EQ(rehome_block_map(fd_, &block_), 0);
  }
  void TearDown() override {
    rehome_block_unmap(&block_);
    close(fd_);
  }
  void SetVerdict(uint32_t verdict) {
    __atomic_store_n(&block_.shared->verdict_word, verdict, __ATOMIC_SEQ_CST);
  }
  void SetWord(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
  static uint64_t Soon() { return rehome_monotonic_ns() + kPatience; }
  static uint64_t Past() { return 1; }

  int fd_ = -1;
  rehome_block block_ = {};
};

// ---- create and map ----

TEST_F(HandoverBlock, BeginsOpenWithTheTermsItWasMadeWith) {
  EXPECT_EQ(rehome_block_verdict(&block_), static_cast<uint32_t>(REHOME_VERDICT_OPEN));
  EXPECT_EQ(rehome_block_fence_state(&block_), static_cast<uint32_t>(REHOME_FENCE_STATE_OPEN));
  EXPECT_EQ(block_.state_capacity, 20000u);
  EXPECT_EQ(block_.claim_timeout_ns, kSecond);
  EXPECT_EQ(block_.resolve_timeout_ns, 2 * kSecond);
  EXPECT_EQ(block_.fence_policy, REHOME_FENCE_AFTER_RESUME);
  EXPECT_EQ(block_.strategy, REHOME_STRATEGY_MAP);
  EXPECT_STREQ(block_.migration_id, "m-1");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block_.state) % REHOME_BLOCK_HEADER_SIZE, 0u);
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(&block_, phases);
  for (uint64_t phase : phases) EXPECT_EQ(phase, 0u);
}

TEST_F(HandoverBlock, CannotBeResizedOrUnsealed) {
  EXPECT_NE(ftruncate(fd_, 0), 0);
  EXPECT_NE(ftruncate(fd_, 1 << 20), 0);
  EXPECT_NE(fcntl(fd_, F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_NE(fcntl(fd_, F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(HandoverBlock, KeepsItsTermsWhenTheSharedOnesChange) {
  block_.shared->state_capacity = 1 << 30;
  block_.shared->claim_timeout_ns = 1;
  EXPECT_EQ(rehome_block_set_source_ready(&block_, 20001), -EMSGSIZE);
  EXPECT_EQ(block_.claim_timeout_ns, kSecond);
}

TEST_F(HandoverBlock, TakesNoPageFaultAfterMapping) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's shadow memory takes page faults of its own";
#endif
  rusage before, after;
  getrusage(RUSAGE_THREAD, &before);
  for (uint64_t i = 0; i < block_.state_capacity; i += 4096) block_.state[i] = 1;
  block_.shared->phase_ns[0] = 1;
  getrusage(RUSAGE_THREAD, &after);
  EXPECT_EQ(after.ru_minflt, before.ru_minflt);
}

TEST(HandoverBlockCreate, RefusesTermsThatNobodyCouldKeep) {
  const std::string long_id(REHOME_ID_SIZE, 'x');
  const std::vector<std::function<void(rehome_block_params*)>> spoils = {
      [](rehome_block_params* p) { p->migration_id = ""; },
      [&](rehome_block_params* p) { p->migration_id = long_id.c_str(); },
      [](rehome_block_params* p) { p->state_capacity = REHOME_MAX_STATE + 1; },
      [](rehome_block_params* p) { p->claim_timeout_ns = 0; },
      [](rehome_block_params* p) { p->claim_timeout_ns = REHOME_BLOCK_MAX_TIMEOUT_NS + 1; },
      [](rehome_block_params* p) { p->resolve_timeout_ns = 0; },
      [](rehome_block_params* p) { p->resolve_timeout_ns = REHOME_BLOCK_MAX_TIMEOUT_NS + 1; },
      [](rehome_block_params* p) { p->strategy = 0; },
      [](rehome_block_params* p) { p->strategy = REHOME_STRATEGY_MAP + 1; },
      [](rehome_block_params* p) { p->fence_policy = 0; },
      [](rehome_block_params* p) { p->fence_policy = REHOME_FENCE_AFTER_RESUME + 1; },
      [](rehome_block_params* p) { p->fence_policy = REHOME_FENCE_KERNEL; },  // with MAP
  };
  for (size_t i = 0; i < spoils.size(); i++) {
    rehome_block_params params = GoodParams();
    spoils[i](&params);
    EXPECT_EQ(rehome_block_create(&params), -EINVAL) << i;
  }
}

TEST(HandoverBlockMap, RefusesWhatIsNoHandoverBlock) {
  rehome_block block;
  EXPECT_EQ(rehome_block_map(-1, &block), -EINVAL);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  EXPECT_EQ(rehome_block_map(pipe_ends[0], &block), -EINVAL);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  int directory = open("/proc", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(rehome_block_map(directory, &block), -EINVAL);
  close(directory);
}

// A file as rehome_block_create() makes it, but for what `spoil` does to its header, with these
// seals and this size.
int MapSpoilt(const std::function<void(rehome_block_header*)>& spoil,
              int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, int extra_bytes = 0) {
  rehome_block_params params = GoodParams();
  int good = rehome_block_create(&params);
  auto header = std::make_unique<rehome_block_header>();
  constexpr ssize_t kSize = sizeof(*header);
  EXPECT_EQ(pread(good, header.get(), kSize, 0), kSize);
  int fd = memfd_create("spoilt", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(header->total_size) + extra_bytes), 0);
  spoil(header.get());
  EXPECT_EQ(pwrite(fd, header.get(), kSize, 0), kSize);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
  rehome_block block;
  int result = rehome_block_map(fd, &block);
  if (result == 0) rehome_block_unmap(&block);
  close(fd);
  close(good);
  return result;
}

TEST(HandoverBlockMap, RefusesEachWrongField) {
  EXPECT_EQ(MapSpoilt([](rehome_block_header*) {}), 0);
  const std::vector<std::function<void(rehome_block_header*)>> spoils = {
      [](rehome_block_header* h) { h->magic++; },
      [](rehome_block_header* h) { h->version++; },
      [](rehome_block_header* h) { h->header_size = 512; },
      [](rehome_block_header* h) { h->total_size += 4096; },
      [](rehome_block_header* h) { h->state_capacity += 4096; },
      [](rehome_block_header* h) { h->state_capacity = UINT64_MAX; },
      [](rehome_block_header* h) { h->claim_timeout_ns = 0; },
      [](rehome_block_header* h) { h->resolve_timeout_ns = UINT64_MAX; },
      [](rehome_block_header* h) { h->fence_policy = 9; },
      [](rehome_block_header* h) { h->strategy = 9; },
      [](rehome_block_header* h) { h->fence_policy = REHOME_FENCE_KERNEL; },
      [](rehome_block_header* h) { memset(h->migration_id, 'x', sizeof(h->migration_id)); },
      [](rehome_block_header* h) { h->migration_id[0] = '\0'; },
      [](rehome_block_header* h) { h->reserved[7] = 1; },
  };
  for (size_t i = 0; i < spoils.size(); i++) EXPECT_EQ(MapSpoilt(spoils[i]), -EINVAL) << i;
}

TEST(HandoverBlockMap, RefusesAFileThatCouldChangeItsSize) {
  auto keep = [](rehome_block_header*) {};
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_SEAL), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, 4096), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, -8192), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE), -EINVAL);
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

TEST_F(HandoverBlock, MovesAlongTheEdgesOfTheTableAndNoOthers) {
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

TEST_F(HandoverBlock, DoesNotMoveAVerdictThatIsNotTheOneNamed) {
  for (uint32_t now : kEveryVerdict) {
    SetVerdict(now);
    if (now == REHOME_VERDICT_OPEN) continue;
    EXPECT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED),
              -EAGAIN);
    EXPECT_EQ(rehome_block_verdict(&block_), now);
  }
}

// Runs `mine` here and `theirs` in another process at the same moment, `rounds` times; each says
// whether it won. Returns in how many rounds exactly one did.
int RaceProcesses(int rounds, const std::function<void()>& reset, const std::function<bool()>& mine,
                  const std::function<bool()>& theirs) {
  struct Shared {
    std::atomic<int> started, finished;
    std::atomic<bool> they_won;
  };
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Shared* shared = new (memory) Shared();
  pid_t child = fork();
  if (child == 0) {
    for (int round = 1; round <= rounds; round++) {
      while (shared->started.load() != round) sched_yield();
      shared->they_won.store(theirs());
      shared->finished.store(round);
    }
    _exit(0);
  }
  int decided = 0;
  for (int round = 1; round <= rounds; round++) {
    reset();
    shared->started.store(round);
    bool i_won = mine();
    while (shared->finished.load() != round) sched_yield();
    decided += i_won != shared->they_won.load();
  }
  waitpid(child, nullptr, 0);
  munmap(memory, sizeof(Shared));
  return decided;
}

constexpr int kRounds = 20000;

TEST_F(HandoverBlock, HasExactlyOneWinnerWhenTwoProcessesRaceForTheVerdict) {
  auto move_to = [&](uint32_t to) {
    return rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, to) == 0;
  };
  EXPECT_EQ(RaceProcesses(
                kRounds, [&] { SetVerdict(REHOME_VERDICT_OPEN); },
                [&] { return move_to(REHOME_VERDICT_ABORTED); },
                [&] { return move_to(REHOME_VERDICT_CLAIMED); }),
            kRounds);
}

TEST_F(HandoverBlock, CondemnsExactlyOneSideWhenBothAreAccused) {
  auto condemn = [&](rehome_side side) { return rehome_block_condemn(&block_, side) == 0; };
  EXPECT_EQ(
      RaceProcesses(
          kRounds, [&] { SetWord(&block_.shared->fence_word, REHOME_FENCE_STATE_OPEN); },
          [&] { return condemn(REHOME_SIDE_SOURCE); }, [&] { return condemn(REHOME_SIDE_TARGET); }),
      kRounds);
}

TEST_F(HandoverBlock, WakesWhoeverWaitsForAVerdictInAnotherProcess) {
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

TEST_F(HandoverBlock, StopsWaitingAtTheDeadline) {
  uint64_t deadline = rehome_monotonic_ns() + 5000000;
  EXPECT_EQ(rehome_block_wait_verdict(&block_, REHOME_VERDICT_OPEN, deadline), -ETIMEDOUT);
  EXPECT_GE(rehome_monotonic_ns(), deadline);
  EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, Past()), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 1000), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Past()), -ETIMEDOUT);
}

TEST_F(HandoverBlock, AnswersAtOnceWhatIsSoAlreadyWhateverTheDeadline) {
  EXPECT_EQ(rehome_block_wait_verdict(&block_, REHOME_VERDICT_CLAIMED, Past()), 0);
  EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICT_BIT(REHOME_VERDICT_OPEN), Past()),
            0);
  ASSERT_EQ(rehome_block_set_source_ready(&block_, 1), 0);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), 0);
  rehome_block_set_fence_proven(&block_);
  EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Past()), 0);
}

TEST_F(HandoverBlock, DoesNotTakeGarbageForAVerdictThatIsWaitedFor) {
  for (uint32_t garbage : {0u, 32u + REHOME_VERDICT_RUNNING, UINT32_MAX}) {
    SetVerdict(garbage);
    EXPECT_EQ(rehome_block_wait_verdict_in(&block_, REHOME_VERDICTS_FINAL, Past()), -ETIMEDOUT);
  }
}

// ---- source ready ----

TEST_F(HandoverBlock, WakesEveryThreadThatWaitsForTheState) {
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

TEST_F(HandoverBlock, SendsEveryWaitingThreadAwayWhenTheVerdictIsAborted) {
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

TEST_F(HandoverBlock, AnnouncesNoStateAfterAnAbort) {
  ASSERT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  EXPECT_EQ(rehome_block_set_source_ready(&block_, 1), -ECANCELED);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

TEST_F(HandoverBlock, SendsAwayWhoeverComesAfterAnAbortOfAReadyState) {
  ASSERT_EQ(rehome_block_set_source_ready(&block_, 1), 0);
  ASSERT_EQ(rehome_block_move_verdict(&block_, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED), 0);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

TEST_F(HandoverBlock, BelievesNoStateSizeBeyondTheCapacity) {
  EXPECT_EQ(rehome_block_set_source_ready(&block_, block_.state_capacity + 1), -EMSGSIZE);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Past(), 0), -ETIMEDOUT);
  EXPECT_EQ(rehome_block_set_source_ready(&block_, block_.state_capacity), 0);
  EXPECT_EQ(rehome_block_state_size(&block_), block_.state_capacity);
  block_.shared->state_size = block_.state_capacity + 1;
  EXPECT_EQ(rehome_block_state_size(&block_), 0u);
}

TEST_F(HandoverBlock, TakesGarbageInTheReadyWordForACancel) {
  SetWord(&block_.shared->source_ready_word, 77);
  EXPECT_EQ(rehome_block_wait_source_ready(&block_, Soon(), 0), -ECANCELED);
}

// ---- fence ----

TEST_F(HandoverBlock, GrantsEveryKillOfTheSideThatIsCondemnedAndNoneOfTheOther) {
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

TEST_F(HandoverBlock, WaitsOnForTheProofOfACondemnedSource) {
  std::thread target([&] { EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Soon()), 0); });
  EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_SOURCE), 0);
  rehome_block_set_fence_proven(&block_);
  target.join();
}

TEST_F(HandoverBlock, SendsACondemnedTargetAway) {
  std::thread target(
      [&] { EXPECT_EQ(rehome_block_wait_fence_proven(&block_, Soon()), -ECANCELED); });
  EXPECT_EQ(rehome_block_condemn(&block_, REHOME_SIDE_TARGET), 0);
  target.join();
}

// ---- phases ----

TEST_F(HandoverBlock, KeepsTheFirstStampOfAPhase) {
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
