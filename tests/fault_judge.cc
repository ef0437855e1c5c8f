// SPDX-License-Identifier: Apache-2.0
#include "tests/fault_judge.h"

#include <string>
#include <utility>

#include "client/api_error.h"

namespace rehome {
namespace {

using v1::Migration;

constexpr int kDataLoss = 15;  // google.rpc.Code
// kMaxRescueAttempts of the daemon.
constexpr int kAllRescues = 3;

class Judge {
 public:
  Judge(const SweptFault& fault, bool lifted, const SweptStrategy& strategy,
        const Migration& record, const SeenProcesses& seen)
      : fault_(fault), lifted_(lifted), strategy_(strategy), record_(record), seen_(seen) {}

  std::vector<std::string> Sentences() {
    Must(seen_.running.size() <= 1, "more than one process runs the guest");
    JudgeOwner();
    if (record_.state() == Migration::SUCCEEDED) {
      JudgeSuccess();
    } else {
      Must(!record_.error().message().empty(), "a failure without a reason");
    }
    const std::string reason = DetailsOf(record_.error()).info.reason();
    Must(fault_.what != SweptFault::What::kDaemonCall || reason != "AGENT_PROTOCOL_VIOLATION",
         "the agent is blamed for what the daemon could not do");
    Must(!fault_.every_second || strategy_.held || record_.state() == Migration::SUCCEEDED,
         "a signal that interrupts a call fails a migration");
    if (strategy_.held) {
      Must(record_.state() == Migration::FAILED && record_.guest_owner() == Migration::SOURCE,
           "a guest is moved whose memory another process holds");
    } else if (fault_.what == SweptFault::What::kNothing) {
      Must(record_.state() == Migration::SUCCEEDED && record_.strategy() == strategy_.strategy,
           "a migration without a fault fails");
    }
    return std::move(problems_);
  }

 private:
  void Must(bool holds, const char* what) {
    if (!holds) problems_.push_back(what);
  }
  bool RunsIn(pid_t pid) const { return seen_.running.size() == 1 && seen_.running.front() == pid; }

  // A KVM_RUN that fails while the source pauses ends a guest that nobody else has got: the source
  // takes it back, says so, and is gone. The record names that: the handover was aborted. A daemon
  // that looks late finds the target gone as well, which leaves by itself then, and names that.
  bool EndedOnTheSource() const {
    const std::string reason = DetailsOf(record_.error()).info.reason();
    const bool named = reason == "HANDOVER_ABORTED" || reason == "TARGET_DIED";
    return FailsTheGuest(fault_) && fault_.side == Side::kSource && seen_.running.empty() &&
           !seen_.source_lives && named;
  }

  void JudgeOwner() {
    const bool failed = record_.state() == Migration::FAILED;
    switch (record_.guest_owner()) {
      case Migration::SOURCE:
        Must(RunsIn(seen_.source) || EndedOnTheSource(),
             "the source is said to run the guest and does not");
        Must(failed, "the guest stays on the source, and the migration has not FAILED");
        Must(record_.error().code() != kDataLoss, "a guest that runs is called lost");
        return;
      case Migration::TARGET:
        Must(RunsIn(record_.target().pid()), "the target is said to run the guest and does not");
        Must(record_.error().code() != kDataLoss, "a guest that runs is called lost");
        Must(failed || record_.state() == Migration::SUCCEEDED, "it has not ended");
        Must(!failed || MayBeUnconfirmed(fault_), "the target runs the guest, and need not FAIL");
        return;
      case Migration::NOBODY:
        Must(seen_.running.empty(), "a guest is said to be lost and runs");
        Must(failed && record_.error().code() == kDataLoss, "a loss is not called one");
        Must(MayBeLost(fault_), "the guest is lost, and need not be");
        return;
      case Migration::UNDECIDED:
        JudgeUndecided();
        return;
      default:  // GUEST_OWNER_UNSPECIFIED, and what protobuf adds
        Must(false, "an owner that is none");
        return;
    }
  }

  void JudgeUndecided() {
    Must(record_.state() == Migration::INDETERMINATE, "nobody knows who has the guest");
    Must(!lifted_, "INDETERMINATE, although nothing fails any more");
    Must(MayBeUndecided(fault_, strategy_), "INDETERMINATE, and need not be");
    if (fault_.what == SweptFault::What::kKernelCall) {
      Must(record_.rescue().attempts() == kAllRescues, "INDETERMINATE before all rescues failed");
    } else {
      Must(RunsIn(seen_.source), "a source that nobody can ask does not run its guest");
    }
  }

  void JudgeSuccess() {
    const v1::FenceProof& proof = record_.fence_proof();
    Must(record_.guest_owner() == Migration::TARGET, "SUCCEEDED, and not on the target");
    Must(proof.complete() && proof.process_exited() && proof.foreign_holders_size() == 0,
         "SUCCEEDED without a complete proof");
    Must(!record_.has_error(), "SUCCEEDED with an error");
    Must(!seen_.source_lives, "SUCCEEDED, and the source lives");
    Must(record_.fence_policy() != Migration::BEFORE_RESUME || proof.stopped_before_resume(),
         "SUCCEEDED under BEFORE_RESUME, and nobody saw the source stopped before");
  }

  const SweptFault& fault_;
  const bool lifted_;
  const SweptStrategy& strategy_;
  const Migration& record_;
  const SeenProcesses& seen_;
  std::vector<std::string> problems_;
};

}  // namespace

// A VMM to which the kernel refuses KVM_RUN ends with its guest: the source before the pause as it
// would have without us, the target after RUNNING, when the saved state is history. No other call
// and no message is in that place: before it the source, after it the saved state can go on.
bool MayBeLost(const SweptFault& fault) { return FailsTheGuest(fault); }

namespace {

// A daemon that can send or receive nothing, or has nothing to wait with for an answer, is cut off
// from both VMMs.
bool CutsOff(DaemonCall call) {
  return call == DaemonCall::kSendmsg || call == DaemonCall::kRecvmsg ||
         call == DaemonCall::kEventfd;
}

// The calls of the search for holders: while they fail there is no proof, and so no success.
bool Blinds(DaemonCall call) {
  return call == DaemonCall::kOpen || call == DaemonCall::kRead || call == DaemonCall::kGetdents ||
         call == DaemonCall::kStatx;
}

}  // namespace

// Once: never, because every question is asked again. For good there are two ways.
bool MayBeUndecided(const SweptFault& fault, const SweptStrategy& strategy) {
  if (fault.once) return false;
  switch (fault.what) {
    case SweptFault::What::kNothing:
      return false;
    case SweptFault::What::kDaemonCall:
      return !fault.every_second && CutsOff(fault.call);
    // The target is the one that fails behind MOVE, and every target of a rescue fails like it: the
    // saved state stays in escrow. Without MOVE the source takes the guest back.
    case SweptFault::What::kKernelCall:
      return fault.side == Side::kTarget && strategy.moves() && !FailsTheGuest(fault);
    // From START on the daemon must not take a source's silence for anything, and a source that is
    // cut off for good answers no more. Before START the guest has not been paused; after it the
    // verdict RUNNING says enough. A target that is cut off is killed, or runs the guest.
    case SweptFault::What::kMessage:
      return fault.side == Side::kSource &&
             fault.nth == (fault.direction == Direction::kToAgent ? kSourceStart : kSourceStarted);
  }
  return false;
}

// A target that has the guest and can never again say that it runs it, or a daemon that can never
// again look who holds the memory: the guest is left alone, and not called a success that nobody
// saw.
bool MayBeUnconfirmed(const SweptFault& fault) {
  if (fault.what == SweptFault::What::kDaemonCall) {
    return !fault.once && !fault.every_second && (CutsOff(fault.call) || Blinds(fault.call));
  }
  if (fault.what != SweptFault::What::kMessage || fault.once) return false;
  if (fault.side != Side::kTarget) return false;
  return fault.nth >=
         (fault.direction == Direction::kToDaemon ? kTargetFirstRun : kTargetRegistered);
}

std::vector<std::string> JudgeRecord(const SweptFault& fault, bool lifted,
                                     const SweptStrategy& strategy, const v1::Migration& record,
                                     const SeenProcesses& seen) {
  return Judge(fault, lifted, strategy, record, seen).Sentences();
}

}  // namespace rehome
