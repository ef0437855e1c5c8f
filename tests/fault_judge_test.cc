// SPDX-License-Identifier: Apache-2.0
#include "tests/fault_judge.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"

namespace rehome {
namespace {

using v1::Migration;

constexpr pid_t kSource = 10;
constexpr pid_t kTarget = 20;

const SweptStrategy kMap = {.strategy = Migration::MAP};
const SweptStrategy kMove = {.strategy = Migration::LINK_MOVE};

SweptFault Call(Side side, const char* name, bool once) {
  return {.what = SweptFault::What::kKernelCall,
          .side = side,
          .once = once,
          .operation = KernelCall(name),
          .error = 22};
}

SweptFault Message(Side side, Direction direction, uint64_t nth, bool once) {
  return {.what = SweptFault::What::kMessage,
          .side = side,
          .nth = nth,
          .once = once,
          .message = MessageFault::kDrop,
          .direction = direction};
}

Migration Record(Migration::State state, Migration::GuestOwner owner) {
  Migration record;
  record.set_state(state);
  record.set_strategy(Migration::MAP);
  record.set_guest_owner(owner);
  record.mutable_target()->set_pid(kTarget);
  if (state == Migration::SUCCEEDED) {
    record.mutable_fence_proof()->set_complete(true);
    record.mutable_fence_proof()->set_process_exited(true);
  } else {
    record.mutable_error()->set_message("because");
    if (owner == Migration::NOBODY) record.mutable_error()->set_code(15);
  }
  return record;
}

void SetReason(const std::string& reason, Migration* record) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("rehome");
  record->mutable_error()->add_details()->PackFrom(info);
}

std::vector<std::string> Judged(const SweptFault& fault, const Migration& record,
                                std::vector<pid_t> running, const SweptStrategy& strategy = kMap,
                                bool lifted = false) {
  return JudgeRecord(
      fault, lifted, strategy, record,
      {.source = kSource, .source_lives = running == std::vector{kSource}, .running = running});
}

const SweptFault kAnyCall = Call(Side::kTarget, "KVM_SET_REGS", true);

TEST(FaultJudgeTest, AnOwnerThatRunsTheGuestIsRight) {
  EXPECT_TRUE(Judged(kAnyCall, Record(Migration::FAILED, Migration::SOURCE), {kSource}).empty());
  EXPECT_TRUE(Judged({}, Record(Migration::SUCCEEDED, Migration::TARGET), {kTarget}).empty());
}

TEST(FaultJudgeTest, AnOwnerThatDoesNotRunTheGuestIsWrong) {
  EXPECT_FALSE(Judged(kAnyCall, Record(Migration::FAILED, Migration::SOURCE), {}).empty());
  EXPECT_FALSE(Judged(kAnyCall, Record(Migration::FAILED, Migration::SOURCE), {kTarget}).empty());
  EXPECT_FALSE(
      Judged(kAnyCall, Record(Migration::SUCCEEDED, Migration::TARGET), {kSource}).empty());
}

TEST(FaultJudgeTest, TwoOwnersAreWrongWhateverTheRecordSays) {
  for (const auto owner : {Migration::SOURCE, Migration::TARGET, Migration::NOBODY}) {
    EXPECT_FALSE(Judged(kAnyCall, Record(Migration::FAILED, owner), {kSource, kTarget}).empty());
  }
}

TEST(FaultJudgeTest, AGuestIsLostByKvmRunAndByNothingElse) {
  const Migration lost = Record(Migration::FAILED, Migration::NOBODY);
  for (const bool once : {true, false}) {
    EXPECT_TRUE(Judged(Call(Side::kTarget, "KVM_RUN", once), lost, {}).empty());
    EXPECT_FALSE(Judged(Call(Side::kTarget, "KVM_SET_REGS", once), lost, {}, kMove).empty());
    EXPECT_FALSE(
        Judged(Message(Side::kSource, Direction::kToAgent, kSourceStart, once), lost, {}).empty());
  }
  Migration renamed = lost;
  renamed.mutable_error()->set_code(9);
  EXPECT_FALSE(Judged(Call(Side::kTarget, "KVM_RUN", true), renamed, {}).empty());
}

TEST(FaultJudgeTest, AGuestThatKvmRunEndsInThePauseEndsWithItsSource) {
  Migration back = Record(Migration::FAILED, Migration::SOURCE);
  const Migration unnamed = back;
  SetReason("HANDOVER_ABORTED", &back);
  EXPECT_TRUE(Judged(Call(Side::kSource, "KVM_RUN", true), back, {}).empty());
  EXPECT_FALSE(Judged(Call(Side::kSource, "KVM_RUN", true), unnamed, {}).empty());
  EXPECT_FALSE(Judged(Call(Side::kTarget, "KVM_RUN", true), back, {}).empty());
  EXPECT_FALSE(Judged(Call(Side::kSource, "KVM_GET_REGS", true), back, {}).empty());
  EXPECT_FALSE(JudgeRecord(Call(Side::kSource, "KVM_RUN", true), false, kMap, back,
                           {.source = kSource, .source_lives = true})
                   .empty());
}

TEST(FaultJudgeTest, OneFaultLeavesNothingUndecided) {
  const Migration undecided = Record(Migration::INDETERMINATE, Migration::UNDECIDED);
  const SweptFault start = Message(Side::kSource, Direction::kToAgent, kSourceStart, true);
  EXPECT_FALSE(Judged(start, undecided, {kSource}).empty());
  EXPECT_FALSE(Judged(kAnyCall, undecided, {}, kMove).empty());
}

TEST(FaultJudgeTest, ASourceThatIsCutOffForGoodAtStartMayBeUndecidedWhileItRunsItsGuest) {
  const Migration undecided = Record(Migration::INDETERMINATE, Migration::UNDECIDED);
  const SweptFault start = Message(Side::kSource, Direction::kToAgent, kSourceStart, false);
  EXPECT_TRUE(Judged(start, undecided, {kSource}).empty());
  EXPECT_FALSE(Judged(start, undecided, {}).empty());
  EXPECT_FALSE(Judged(start, undecided, {kSource}, kMap, /*lifted=*/true).empty());
  for (const uint64_t nth : {kSourceStart - 1, kSourceStart + 1}) {
    const SweptFault other = Message(Side::kSource, Direction::kToAgent, nth, false);
    EXPECT_FALSE(Judged(other, undecided, {kSource}).empty());
  }
}

TEST(FaultJudgeTest, OnlyMoveAndEveryRescueFailingMayLeaveTheGuestInEscrow) {
  Migration undecided = Record(Migration::INDETERMINATE, Migration::UNDECIDED);
  const SweptFault fault = Call(Side::kTarget, "KVM_SET_REGS", false);
  EXPECT_FALSE(Judged(fault, undecided, {}, kMove).empty());
  undecided.mutable_rescue()->set_attempts(3);
  EXPECT_TRUE(Judged(fault, undecided, {}, kMove).empty());
  EXPECT_FALSE(Judged(fault, undecided, {}, kMap).empty());
  EXPECT_FALSE(Judged(Call(Side::kSource, "KVM_GET_REGS", false), undecided, {}, kMove).empty());
}

TEST(FaultJudgeTest, ATargetThatRunsTheGuestMayOnlyFailIfItCanNeverSaySo) {
  const Migration unconfirmed = Record(Migration::FAILED, Migration::TARGET);
  for (const bool once : {true, false}) {
    const SweptFault word = Message(Side::kTarget, Direction::kToDaemon, kTargetFirstRun, once);
    EXPECT_EQ(Judged(word, unconfirmed, {kTarget}).empty(), !once);
  }
  EXPECT_FALSE(Judged(kAnyCall, unconfirmed, {kTarget}).empty());
}

TEST(FaultJudgeTest, ASuccessNeedsItsProofAndTheSourceGone) {
  Migration unproven = Record(Migration::SUCCEEDED, Migration::TARGET);
  unproven.mutable_fence_proof()->set_complete(false);
  EXPECT_FALSE(Judged(kAnyCall, unproven, {kTarget}).empty());
  const Migration record = Record(Migration::SUCCEEDED, Migration::TARGET);
  EXPECT_FALSE(JudgeRecord(kAnyCall, false, kMap, record,
                           {.source = kSource, .source_lives = true, .running = {kTarget}})
                   .empty());
}

TEST(FaultJudgeTest, UnderBeforeResumeASuccessNeedsTheSourceSeenStoppedBefore) {
  Migration record = Record(Migration::SUCCEEDED, Migration::TARGET);
  record.set_fence_policy(Migration::AFTER_RESUME);
  EXPECT_TRUE(Judged(kAnyCall, record, {kTarget}).empty());
  record.set_fence_policy(Migration::BEFORE_RESUME);
  EXPECT_FALSE(Judged(kAnyCall, record, {kTarget}).empty());
  record.mutable_fence_proof()->set_stopped_before_resume(true);
  EXPECT_TRUE(Judged(kAnyCall, record, {kTarget}).empty());
}

TEST(FaultJudgeTest, AMigrationWithoutAFaultSucceeds) {
  EXPECT_FALSE(Judged({}, Record(Migration::FAILED, Migration::SOURCE), {kSource}).empty());
}

}  // namespace
}  // namespace rehome
