// SPDX-License-Identifier: Apache-2.0
//
// A daemon that died comes back: in every state both sides connect again, can be told apart, tell
// the truth, and hand in what is needed to settle the migration.
#include <string.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <tuple>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"

namespace rehome {
namespace {

constexpr uint64_t kFar = 10000 * kMs;

Terms MakeTerms(bool moves) {
  return {.strategy = moves ? REHOME_STRATEGY_LINK_MOVE : REHOME_STRATEGY_MAP,
          .fence_policy = moves ? REHOME_FENCE_KERNEL : REHOME_FENCE_AFTER_RESUME,
          .claim_timeout_ns = kFar,
          .resolve_timeout_ns = kFar,
          .reconnects = true};
}

ino_t InodeOf(int fd) {
  struct stat status = {};
  EXPECT_EQ(fstat(fd, &status), 0);
  return status.st_ino;
}

// How many of the role; *fd is one of them.
int CountRole(const rehome_vm& vm, uint32_t role, int* fd) {
  int count = 0;
  for (uint32_t i = 0; i < vm.fd_count; i++) {
    if (vm.fds[i].entry.role != role) continue;
    *fd = vm.fds[i].fd;
    count++;
  }
  return count;
}

class Recovery : public testing::Test {
 protected:
  // Asks and checks everything but which VM it is.
  void ExpectHandsIn(Handover* handover, FakeLink* link, bool is_source) {
    rehome_vm vm = {};
    ASSERT_EQ(link->HandIn(kMigration, &vm), 0u) << link->refusal_text();
    EXPECT_STREQ(vm.vm_id, kFakeVmId);
    EXPECT_EQ(vm.layout_digest, kFakeLayoutDigest);
    int fd = -1;
    ASSERT_EQ(CountRole(vm, REHOME_FD_BLOCK, &fd), 1);
    EXPECT_EQ(InodeOf(fd), InodeOf(handover->block_fd()));
    ASSERT_EQ(CountRole(vm, REHOME_FD_MEMORY, &fd), 1);
    EXPECT_EQ(InodeOf(fd), vm.slots[0].inode);
    EXPECT_EQ(CountRole(vm, REHOME_FD_VM, &fd), 1);
    EXPECT_EQ(CountRole(vm, REHOME_FD_CONFIG, &fd), is_source ? 1 : 0);
    EXPECT_EQ(CountRole(vm, REHOME_FD_NAMED, &fd), is_source ? 1 : 0);
    EXPECT_EQ(link->HandIn("m-other", &vm), REHOME_REFUSED_WRONG_MIGRATION);
  }
  void ExpectHasNothing(FakeLink* link) {
    rehome_vm vm = {};
    EXPECT_EQ(link->HandIn(kMigration, &vm), REHOME_REFUSED_WRONG_MIGRATION);
  }
  void ExpectProbe(FakeLink* link, bool vm_alive, bool guest_running) {
    std::optional<rehome_probe> probe = link->Probe(kMigration);
    ASSERT_TRUE(probe);
    EXPECT_EQ(probe->vm_alive, vm_alive ? 1u : 0u);
    EXPECT_EQ(probe->guest_running, guest_running ? 1u : 0u);
  }
};

// ---- while the blackout lasts ----

class RecoveryAt : public Recovery, public testing::WithParamInterface<std::tuple<bool, Step>> {
 protected:
  bool moves() const { return std::get<0>(GetParam()); }
  Step step() const { return std::get<1>(GetParam()); }
  bool moved() const { return moves() && step() >= Step::kMoved; }
};
INSTANTIATE_TEST_SUITE_P(Steps, RecoveryAt,
                         testing::Combine(testing::Bool(),
                                          testing::Values(Step::kStateSeen, Step::kClaimed,
                                                          Step::kMoved, Step::kCommitted,
                                                          Step::kRunning, Step::kRan)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "Move" : "Map") +
                                  std::to_string(static_cast<int>(std::get<1>(info.param)));
                         });

TEST_P(RecoveryAt, BothSidesAreThereAgainAndHandIn) {
  Handover handover(MakeTerms(moves()));
  handover.HangAt(step());
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(step()));
  const bool handed_over = step() >= Step::kRunning;
  if (handed_over) {
    ASSERT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  }
  handover.CloseLinks();
  ASSERT_TRUE(handover.Reconnect(true, true));

  EXPECT_EQ(handover.source_role(), static_cast<uint32_t>(REHOME_ROLE_OWNER));
  ExpectProbe(&handover.source(), !moved(), false);
  ExpectHandsIn(&handover, &handover.source(), true);
  if (handed_over) {
    EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
    EXPECT_TRUE(handover.source().registrations().empty());
  } else {
    ASSERT_TRUE(handover.source().AnswerRegister());
  }

  EXPECT_EQ(handover.target_role(), static_cast<uint32_t>(REHOME_ROLE_TARGET));
  // What ran there has not been reported, so it does not count.
  ExpectProbe(&handover.target(), !moved(), false);
  ExpectHandsIn(&handover, &handover.target(), false);
  EXPECT_TRUE(handover.target().registrations().empty());

  // The handover goes on, and the daemon that came late hears how it ends.
  handover.LetGo();
  EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
  std::optional<rehome_register> vm = handover.target().AnswerRegister();
  ASSERT_TRUE(vm);
  EXPECT_STREQ(vm->migration_id, kMigration);
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
  EXPECT_EQ(handover.page().resumes.load(), 0u);
  EXPECT_EQ(handover.target().Probe(kMigration)->guest_running, 1u);
  ExpectHasNothing(&handover.target());
  ExpectHandsIn(&handover, &handover.source(), true);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_RELEASE, kMigration), 0u);
  EXPECT_TRUE(handover.AwaitSourceExit());
}

TEST_P(RecoveryAt, ADaemonThatComesBackTwiceFindsTheSame) {
  Handover handover(MakeTerms(moves()));
  handover.HangAt(step());
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(step()));
  for (int i = 0; i < 2; i++) {
    handover.daemon().StopListening();
    handover.CloseLinks();
    handover.daemon().StartListening();
    ASSERT_TRUE(handover.Reconnect(true, true));
    ExpectHandsIn(&handover, &handover.source(), true);
    ExpectHandsIn(&handover, &handover.target(), false);
  }
}

// ---- before the pause ----

class RecoveryBefore : public Recovery, public testing::WithParamInterface<Stage> {};
INSTANTIATE_TEST_SUITE_P(Stages, RecoveryBefore,
                         testing::Values(Stage::kConnected, Stage::kDescribed, Stage::kPrepared,
                                         Stage::kTargetArmed, Stage::kSourceArmed));

TEST_P(RecoveryBefore, TheSourceIsAnOwnerAgainAndTheTargetLeaves) {
  Terms terms = MakeTerms(false);
  terms.claim_timeout_ns = 10 * kMs;  // part of what an armed target waits for
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(GetParam()));
  if (GetParam() == Stage::kSourceArmed) ExpectHandsIn(&handover, &handover.source(), true);
  const bool armed = GetParam() >= Stage::kTargetArmed;
  handover.CloseLinks();
  // Where the source was not armed, an armed target is there until it gives up.
  const bool both = GetParam() == Stage::kTargetArmed;
  ASSERT_TRUE(handover.Reconnect(true, both));
  if (both) ExpectProbe(&handover.target(), true, false);
  ASSERT_TRUE(handover.source().AnswerRegister());
  ExpectProbe(&handover.source(), true, true);
  ExpectHasNothing(&handover.source());
  EXPECT_TRUE(handover.AwaitTargetExit());
  if (armed) {
    EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  }
  EXPECT_EQ(handover.page().pauses.load(), 0u);
}

// ---- afterwards ----

TEST_F(Recovery, AStrandedSourceSaysSoAgainAndHandsIn) {
  Handover handover(MakeTerms(true));
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  handover.KillTarget();
  std::optional<rehome_event> said = handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD);
  ASSERT_TRUE(said);
  handover.CloseLinks();
  ASSERT_TRUE(handover.Reconnect(true, false));
  ASSERT_TRUE(handover.source().AnswerRegister());
  std::optional<rehome_event> again = handover.source().AwaitEvent(REHOME_EVENT_VM_DEAD);
  ASSERT_TRUE(again);
  EXPECT_STREQ(again->text, said->text);
  EXPECT_STREQ(again->migration_id, kMigration);
  ExpectProbe(&handover.source(), false, false);
  ExpectHandsIn(&handover, &handover.source(), true);
  EXPECT_EQ(handover.source().Order(REHOME_MSG_RELEASE, kMigration), 0u);
  EXPECT_TRUE(handover.AwaitSourceExit());
}

TEST_F(Recovery, ATargetThatRanTheGuestWithoutADaemonRegistersWithItsMigration) {
  Handover handover(MakeTerms(false));
  handover.HangAt(Step::kCommitted);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kCommitted));
  handover.daemon().StopListening();
  handover.CloseLinks();
  handover.LetGo();
  ASSERT_TRUE(handover.WaitUntil([&] { return handover.page().target_runs.load() == 1; }));
  for (int i = 0; i < 2; i++) {
    handover.daemon().StartListening();
    ASSERT_TRUE(handover.Reconnect(true, true));
    std::optional<rehome_register> vm = handover.target().AnswerRegister();
    ASSERT_TRUE(vm);
    EXPECT_STREQ(vm->migration_id, kMigration);
    ExpectProbe(&handover.target(), true, true);
    ExpectHasNothing(&handover.target());
    EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
    if (i == 0) {
      EXPECT_TRUE(handover.target().AwaitEvent(REHOME_EVENT_FIRST_RUN));
    }
    handover.daemon().StopListening();
    handover.CloseLinks();
  }
  EXPECT_EQ(handover.page().ran_twice.load(), 0u);
}

TEST_F(Recovery, ACancelledSourceHasNothingToHandInAnyMore) {
  Terms terms = MakeTerms(false);
  terms.claim_timeout_ns = 10 * kMs;
  Handover handover(terms);
  ASSERT_TRUE(handover.Lead(Stage::kSourceArmed));
  handover.KillTarget();
  ExpectHandsIn(&handover, &handover.source(), true);
  ASSERT_EQ(handover.source().Order(REHOME_MSG_CANCEL, kMigration), 0u);
  ExpectHasNothing(&handover.source());
  ExpectProbe(&handover.source(), true, true);
}

}  // namespace
}  // namespace rehome
