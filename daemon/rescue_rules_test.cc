// SPDX-License-Identifier: Apache-2.0
#include "daemon/rescue_rules.h"

#include <gtest/gtest.h>

#include <functional>

namespace rehome {
namespace {

using std::chrono::milliseconds;

constexpr HeldParts kAll = {.block = true, .memory = true, .source_vm = true, .target_vm = true};

TEST(HoldsGuestTest, NothingIsRescuedWithoutStateOrMemory) {
  HeldParts held = kAll;
  held.block = false;
  EXPECT_FALSE(HoldsGuest(held, /*moves=*/false, /*source_vm_dead=*/false));
  held = kAll;
  held.memory = false;
  EXPECT_FALSE(HoldsGuest(held, false, false));
}

TEST(HoldsGuestTest, WithMoveAVmThatMayHaveTheContextIsNeededToo) {
  HeldParts held = kAll;
  held.target_vm = false;
  EXPECT_TRUE(HoldsGuest(held, /*moves=*/true, /*source_vm_dead=*/false));
  EXPECT_FALSE(HoldsGuest(held, true, /*source_vm_dead=*/true));
  EXPECT_TRUE(HoldsGuest(held, /*moves=*/false, true));
  held.source_vm = false;
  EXPECT_FALSE(HoldsGuest(held, true, false));
  held.target_vm = true;
  EXPECT_TRUE(HoldsGuest(held, true, true));
}

TEST(KnowsVerdictTest, OfARescuesTargetOnlyItsOwnBlockTells) {
  Migration record;
  EXPECT_FALSE(KnowsVerdict(record, /*has_block=*/false, /*block_is_rescues=*/false));
  EXPECT_TRUE(KnowsVerdict(record, true, false));
  record.rescue.attempts = 1;
  record.rescue.dead_target.pid = 7;
  record.target.pid = 8;
  EXPECT_FALSE(KnowsVerdict(record, true, false));
  EXPECT_TRUE(KnowsVerdict(record, true, true));
  record.target = record.rescue.dead_target;  // none has been built in its place yet
  EXPECT_TRUE(KnowsVerdict(record, true, false));
}

TEST(ClaimTimeoutTest, EachAttemptHasTwiceTheTimeOfTheOneBeforeUpToTheLast) {
  Migration record;
  EXPECT_EQ(ClaimTimeoutOf(record, milliseconds(200)), milliseconds(200));
  record.rescue.attempts = 2;
  EXPECT_EQ(ClaimTimeoutOf(record, milliseconds(200)), milliseconds(800));
  record.rescue.attempts = kMaxRescueAttempts + 5;  // of resolves
  EXPECT_EQ(ClaimTimeoutOf(record, milliseconds(200)), milliseconds(1600));
}

// 0 stands for the source's VM.
using Vms = std::vector<int>;

TEST(ContextTest, ATargetThatNeverHadTheRightToMoveIsNoCandidate) {
  Vms vms;
  NoteWhereContextIs<int>(vms, REHOME_VERDICT_OPEN, 5);
  EXPECT_EQ(vms, Vms({0}));
}

TEST(ContextTest, AClaimantMayHaveMovedAndWhoCommittedHas) {
  Vms vms;
  NoteWhereContextIs<int>(vms, REHOME_VERDICT_CLAIMED, 5);
  EXPECT_EQ(vms, Vms({5, 0}));
  NoteWhereContextIs<int>(vms, REHOME_VERDICT_COMMITTED, 6);
  EXPECT_EQ(vms, Vms({6}));
  NoteWhereContextIs<int>(vms, REHOME_VERDICT_COMMITTED, std::nullopt);
  EXPECT_EQ(vms, Vms({6}));
}

TEST(ContextTest, ARefusedVmIsDroppedUnlessItIsTheOnlyOne) {
  Vms vms = {5, 0};
  NoteRefusal(vms);
  NoteRefusal(vms);
  EXPECT_EQ(vms, Vms({0}));
}

TEST(ContextTest, WhoLeftTheVerdictClaimedComesBehindTheOthersAndBeforeTheOneThatRefused) {
  Vms vms = {5, 4, 0};
  NoteFailureOfClaimant(vms, 6);
  EXPECT_EQ(vms, Vms({4, 0, 6, 5}));
}

TEST(RecordTest, StartWasNotSentBeforeItsStepWasJournalled) {
  Migration record;
  EXPECT_FALSE(WasBeforeStart(record));
  record.interrupted_step = Step::kArming;
  EXPECT_TRUE(WasBeforeStart(record));
  record.interrupted_step = Step::kHandingOver;
  EXPECT_FALSE(WasBeforeStart(record));
}

TEST(RecordTest, AnEmptySourceIsEndedInOneStepAndByItsFullProof) {
  Migration record;
  record.step = Step::kDiscardingTarget;
  record.owner = GuestOwner::kNobody;
  record.source = {.pid = 10, .start_ticks = 1};
  record.fence.kernel_vm_dead = true;
  record.fence.source = record.source;
  EXPECT_TRUE(EndsEmptySource(record));
  const std::function<void(Migration&)> spoils[] = {
      [](Migration& spoilt) { spoilt.step = Step::kUnresolved; },
      [](Migration& spoilt) { spoilt.step = Step::kFencing; },
      [](Migration& spoilt) { spoilt.owner = GuestOwner::kUndecided; },
      [](Migration& spoilt) { spoilt.owner = GuestOwner::kSource; },
      [](Migration& spoilt) { spoilt.fence.kernel_vm_dead = false; },
      [](Migration& spoilt) { spoilt.fence.source = {}; },
      [](Migration& spoilt) { ++spoilt.fence.source.start_ticks; },
      [](Migration& spoilt) { spoilt.source = spoilt.fence.source = {}; },
  };
  for (const auto& spoil : spoils) {
    Migration spoilt = record;
    spoil(spoilt);
    EXPECT_FALSE(EndsEmptySource(spoilt));
  }
}

TEST(RecordTest, ARescueMeansThatTheSourceWasOut) {
  Migration record;
  record.interrupted_step = Step::kAborting;
  EXPECT_FALSE(WasOutBefore(record));
  record.interrupted_step = Step::kRescuing;
  EXPECT_TRUE(WasOutBefore(record));
  record = {};
  record.rescue.attempts = 1;
  EXPECT_TRUE(WasOutBefore(record));
}

}  // namespace
}  // namespace rehome
