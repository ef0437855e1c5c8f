// SPDX-License-Identifier: Apache-2.0
#include "client/cli/steps.h"

#include <algorithm>

#include "client/cli/format.h"
#include "client/migration_client.h"

namespace rehome {
namespace {

int CountChecks(const v1::Migration& migration, v1::PreflightCheck::Result result) {
  return static_cast<int>(std::count_if(
      migration.preflight_checks().begin(), migration.preflight_checks().end(),
      [result](const v1::PreflightCheck& check) { return check.result() == result; }));
}

// The evidence for each step. Written so that a later step that is done speaks for an earlier one
// whose own evidence is missing.
struct Evidence {
  bool checked = false;
  bool launched = false;
  bool prepared = false;
  bool handed_over = false;
  bool fenced = false;
};

Evidence EvidenceOf(const v1::Migration& migration) {
  Evidence evidence;
  evidence.fenced = migration.fence_proof().complete();
  evidence.handed_over = evidence.fenced || migration.has_blackout() ||
                         migration.guest_owner() == v1::Migration::TARGET;
  evidence.prepared = evidence.handed_over || migration.guest_paused() ||
                      migration.state() == v1::Migration::HANDING_OVER;
  evidence.launched = evidence.prepared || migration.has_target();
  evidence.checked = evidence.launched || (migration.preflight_checks_size() > 0 &&
                                           CountChecks(migration, v1::PreflightCheck::FAILED) == 0);
  return evidence;
}

std::string CheckText(const v1::Migration& migration) {
  if (migration.preflight_checks_size() == 0) return "";
  const int failed = CountChecks(migration, v1::PreflightCheck::FAILED);
  if (failed > 0) {
    return std::to_string(failed) + " of " + Count(migration.preflight_checks_size(), "check") +
           " failed";
  }
  std::string text = Count(CountChecks(migration, v1::PreflightCheck::PASSED), "check") + " passed";
  if (migration.strategy() == v1::Migration::STRATEGY_UNSPECIFIED) return text;
  return text + "; strategy " + v1::Migration::Strategy_Name(migration.strategy()) + ", " +
         FencePolicyText(migration.fence_policy());
}

std::string MemoryText(const v1::Migration& migration) {
  std::string text = FormatBytes(migration.memory_bytes()) + " stay in place, " +
                     Count(migration.vcpu_count(), "vCPU");
  if (!migration.layout_digest().empty()) text += ", layout " + migration.layout_digest();
  return text;
}

std::string FenceText(const v1::Migration& migration, const Console& console) {
  const v1::FenceProof& proof = migration.fence_proof();
  // The proof names its process from the fencing on; parts of it are known before.
  const int32_t pid = proof.has_source() && proof.source().pid() != 0 ? proof.source().pid()
                                                                      : migration.source().pid();
  std::string text = "pid " + std::to_string(pid);
  if (!proof.process_exited()) return text + " is not proven gone";
  text += " gone";
  const int64_t took = proof.exited_monotonic_ns() - proof.kill_sent_monotonic_ns();
  if (proof.kill_sent_monotonic_ns() != 0 && took > 0) {
    text += " after " + FormatNanos(took, console.micro());
  }
  text += ", " + Count(proof.inodes_checked(), "memory file") + " checked, ";
  if (proof.foreign_holders().empty()) return text + "no other holder";
  return text + Count(proof.foreign_holders_size(), "process") + " still holding";
}

std::string HandOverText(const v1::Migration& migration, const Console& console) {
  if (!migration.has_blackout()) {
    return migration.guest_paused() && IsFinished(migration) ? "the guest was paused" : "";
  }
  return "guest paused for " + FormatNanos(migration.blackout().total_ns(), console.micro());
}

}  // namespace

std::string IdOf(std::string_view name) {
  return Printable(name.substr(name.find_last_of('/') + 1));
}

std::string ProcessText(const v1::VmmProcess& process) {
  const std::string pid = "pid " + std::to_string(process.pid());
  return process.vmm().empty() ? pid : Printable(process.vmm()) + ", " + pid;
}

std::string FencePolicyText(v1::Migration::FencePolicy policy) {
  switch (policy) {
    case v1::Migration::KERNEL:
      return "fenced by the kernel";
    case v1::Migration::BEFORE_RESUME:
      return "fence before resume";
    case v1::Migration::AFTER_RESUME:
      return "fence after resume";
    default:
      // Of protobuf's open enum: unspecified, or newer than this program.
      return "default fence";
  }
}

std::string GuestStatus(const v1::Migration& migration) {
  switch (migration.guest_owner()) {
    case v1::Migration::SOURCE:
      return migration.has_source() ? "runs on the source: " + ProcessText(migration.source())
                                    : "runs on the source";
    case v1::Migration::TARGET:
      return "runs on the target: " + ProcessText(migration.target());
    case v1::Migration::UNDECIDED:
      if (IsFinished(migration)) return "is with source or target; nobody knows with which";
      return migration.state() == v1::Migration::ROLLING_BACK
                 ? "is with source or target; the daemon finds out with which"
                 : "is being handed over";
    case v1::Migration::NOBODY:
      return "is lost: it runs nowhere";
    default:
      // Of protobuf's open enum: unspecified, or newer than this program.
      return "has an owner that this program does not know";
  }
}

std::vector<StepView> StepsOf(const v1::Migration& migration, const Console& console) {
  const Evidence evidence = EvidenceOf(migration);
  std::vector<StepView> steps = {
      {.mark = {}, .title = "Preconditions", .detail = CheckText(migration)},
      {.mark = {}, .title = "Target VMM", .detail = ""},
      {.mark = {}, .title = "Memory and state", .detail = ""},
      {.mark = {}, .title = "Hand-over", .detail = HandOverText(migration, console)},
      {.mark = {}, .title = "Fence", .detail = ""},
  };
  if (migration.has_target()) steps[1].detail = ProcessText(migration.target());
  if (migration.has_rescue()) {
    steps[1].detail += "; in place of pid " +
                       std::to_string(migration.rescue().dead_target().pid()) + ", which died";
  }
  if (evidence.prepared) steps[2].detail = MemoryText(migration);
  if (migration.has_fence_proof()) steps[4].detail = FenceText(migration, console);

  const bool done[] = {evidence.checked, evidence.launched, evidence.prepared, evidence.handed_over,
                       evidence.fenced};
  const bool failing = migration.has_error() || migration.state() == v1::Migration::CANCELLED;
  bool reached = true;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (done[i]) {
      steps[i].mark = StepView::Mark::kDone;
    } else if (reached) {
      // The first step that is not done is where it stands, or where it failed.
      steps[i].mark = failing ? StepView::Mark::kFailed : StepView::Mark::kActive;
      reached = false;
    }
  }
  return steps;
}

}  // namespace rehome
