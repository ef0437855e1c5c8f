// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/translate.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/status_details.h"
#include "daemon/service/translate_enums.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

v1::PreflightCheck::Result ToProto(PreflightCheck::Result result) {
  switch (result) {
    case PreflightCheck::Result::kPassed:
      return v1::PreflightCheck::PASSED;
    case PreflightCheck::Result::kFailed:
      return v1::PreflightCheck::FAILED;
    case PreflightCheck::Result::kNotApplicable:
      return v1::PreflightCheck::NOT_APPLICABLE;
  }
  return v1::PreflightCheck::RESULT_UNSPECIFIED;
}

v1::PreflightCheck ToProto(const PreflightCheck& check) {
  v1::PreflightCheck proto;
  proto.set_name(check.name);
  proto.set_result(ToProto(check.result));
  proto.set_reason(check.reason);
  proto.set_detail(check.detail);
  return proto;
}

v1::FenceProof::HolderClass ToProto(HolderClass holder_class) {
  switch (holder_class) {
    case HolderClass::kTarget:
      return v1::FenceProof::TARGET;
    case HolderClass::kDaemon:
      return v1::FenceProof::DAEMON;
    case HolderClass::kForeign:
      return v1::FenceProof::FOREIGN;
  }
  return v1::FenceProof::HOLDER_CLASS_UNSPECIFIED;
}

v1::FenceProof::Holder ToProto(const InodeHolder& holder) {
  v1::FenceProof::Holder proto;
  proto.set_pid(holder.pid);
  proto.set_command(holder.command);
  proto.set_how(holder.how);
  proto.set_holder_class(ToProto(holder.holder_class));
  return proto;
}

void SetObserver(const Observer& observer, const Migration& migration,
                 v1::FenceProof::Observer* proto) {
  proto->set_role(observer.role);
  std::string vmm;
  if (observer.process == migration.source) vmm = migration.source_vmm;
  if (observer.process == migration.target) vmm = migration.target_vmm;
  *proto->mutable_process() = ProcessToProto(observer.process, vmm);
}

void SetSearch(const HolderSearch& search, v1::FenceProof* proto) {
  proto->set_inodes_checked(static_cast<int32_t>(search.memory.size()));
  for (const InodeHolder& holder : search.Foreign()) {
    *proto->add_foreign_holders() = ToProto(holder);
  }
  for (const InodeSearch& found : search.memory) {
    auto* const inode = proto->add_memory();
    inode->set_device(found.inode.device);
    inode->set_inode(found.inode.inode);
    inode->set_foreign_count(static_cast<int32_t>(found.foreign));
    for (const InodeHolder& holder : found.holders) *inode->add_holders() = ToProto(holder);
  }
  proto->set_search_monotonic_ns(static_cast<int64_t>(search.begun_ns));
  proto->set_init_shielded(search.init_shielded);
}

v1::FenceProof FenceToProto(const Migration& migration) {
  const FenceProof& proof = migration.fence;
  v1::FenceProof proto;
  // A success had a complete proof, also where an older daemon's record does not list the inodes.
  proto.set_complete(migration.state == MigrationState::kSucceeded ||
                     proof.complete(migration.memory_inodes));
  proto.set_kernel_vm_dead(proof.kernel_vm_dead);
  proto.set_process_exited(proof.process_exited);
  proto.set_stopped_before_resume(proof.stopped_before_resume);
  proto.set_observer(proof.observer.role);
  *proto.mutable_source() = ProcessToProto(proof.source, migration.source_vmm);
  proto.set_kill_sent_monotonic_ns(static_cast<int64_t>(proof.kill_sent_ns));
  proto.set_tasks_stopped_monotonic_ns(static_cast<int64_t>(proof.tasks_stopped_ns));
  proto.set_exited_monotonic_ns(static_cast<int64_t>(proof.exited_ns));
  proto.set_kernel_dead_monotonic_ns(static_cast<int64_t>(proof.kernel_dead_seen_ns));
  if (!proof.kernel_observer.role.empty()) {
    SetObserver(proof.kernel_observer, migration, proto.mutable_kernel_observer());
  }
  if (!proof.stop_observer.role.empty()) {
    SetObserver(proof.stop_observer, migration, proto.mutable_stop_observer());
  }
  if (!proof.observer.role.empty()) {
    SetObserver(proof.observer, migration, proto.mutable_exit_observer());
  }
  SetSearch(proof.search, &proto);
  proto.set_kernel_release(proof.kernel_release);
  return proto;
}

// Whether anything of the proof is known yet.
bool HasBegun(const FenceProof& proof) {
  return proof.kernel_vm_dead || proof.process_exited || proof.stopped_before_resume ||
         proof.kill_sent_ns != 0 || proof.tasks_stopped_ns != 0 || !proof.search.memory.empty();
}

v1::Rescue RescueToProto(const Migration& migration) {
  const Rescue& rescue = migration.rescue;
  v1::Rescue proto;
  proto.set_attempts(static_cast<int32_t>(rescue.attempts));
  // Started from the same profile, but which program that was then is not on record.
  *proto.mutable_dead_target() = ProcessToProto(rescue.dead_target, "");
  const auto status = [](const Failure& failure) {
    return ToRpcStatus(MakeStatus(absl::StatusCode::kAborted, failure.reason, failure.message), {});
  };
  *proto.mutable_cause() = status(rescue.cause);
  proto.set_context_from_target(rescue.context_from_target);
  for (const Failure& failure : rescue.failed_attempts) {
    *proto.add_failed_attempts() = status(failure);
  }
  return proto;
}

bool HasFailedCheck(const Migration& migration) {
  for (const PreflightCheck& check : migration.preflight) {
    if (check.result == PreflightCheck::Result::kFailed) return true;
  }
  return false;
}

absl::StatusCode CodeOfFailure(const Migration& migration) {
  switch (migration.state) {
    case MigrationState::kCancelled:
      return absl::StatusCode::kCancelled;
    case MigrationState::kIndeterminate:
      return absl::StatusCode::kUnknown;
    case MigrationState::kPending:
    case MigrationState::kPreparing:
    case MigrationState::kHandingOver:
    case MigrationState::kCompleting:
    case MigrationState::kRollingBack:
    case MigrationState::kSucceeded:
    case MigrationState::kFailed:
      break;
  }
  switch (migration.owner) {
    case GuestOwner::kNobody:
      return absl::StatusCode::kDataLoss;
    case GuestOwner::kTarget:
      return absl::StatusCode::kInternal;
    case GuestOwner::kUndecided:
      return absl::StatusCode::kUnknown;
    case GuestOwner::kSource:
      break;
  }
  return HasFailedCheck(migration) ? absl::StatusCode::kFailedPrecondition
                                   : absl::StatusCode::kAborted;
}

// The parts of PhaseTimes in order, or nullopt if one is missing or before its predecessor.
std::optional<v1::Blackout::Phases> PhasesOf(const PhaseTimes& at) {
  for (size_t phase = 1; phase < at.size(); ++phase) {
    if (at[phase - 1] == 0 || at[phase] < at[phase - 1]) return std::nullopt;
  }
  const auto until = [&at](rehome_phase phase) {
    return static_cast<int64_t>(at[phase] - at[phase - 1]);
  };
  v1::Blackout::Phases phases;
  phases.set_stop_vcpus_ns(until(REHOME_PHASE_VCPUS_STOPPED));
  phases.set_save_state_ns(until(REHOME_PHASE_STATE_SAVED));
  phases.set_claim_ns(until(REHOME_PHASE_CLAIMED));
  phases.set_move_ns(until(REHOME_PHASE_MOVED));
  phases.set_restore_state_ns(until(REHOME_PHASE_RESTORED));
  phases.set_fence_ns(until(REHOME_PHASE_FENCED));
  phases.set_resume_ns(until(REHOME_PHASE_RUNNING));
  return phases;
}

void SetRequest(const MigrationRequest& request, v1::Migration* proto) {
  proto->set_vm(VmName(request.vm_id));
  proto->set_target_profile(request.target_profile);
  proto->set_request_id(request.request_id);
  proto->set_requested_by(request.requested_by);
  if (request.handover_timeout.count() != 0) {
    *proto->mutable_handover_timeout() = ToDuration(request.handover_timeout);
  }
  if (request.deadline.count() != 0) *proto->mutable_deadline() = ToDuration(request.deadline);
}

// Strategy and effective policy are known from the end of preflight on.
bool StrategyIsChosen(const Migration& migration) {
  return migration.fence_policy != FencePolicy::kUnspecified;
}

void SetOutcome(const Migration& migration, v1::Migration* proto) {
  for (const PreflightCheck& check : migration.preflight) {
    *proto->add_preflight_checks() = ToProto(check);
  }
  if (auto blackout = BlackoutOf(migration); blackout.has_value()) {
    *proto->mutable_blackout() = *std::move(blackout);
  }
  if (HasBegun(migration.fence)) {
    *proto->mutable_fence_proof() = FenceToProto(migration);
  }
  if (migration.rescue.attempts != 0) *proto->mutable_rescue() = RescueToProto(migration);
  if (migration.interrupted_step.has_value()) {
    proto->set_interrupted_step(StepName(*migration.interrupted_step));
  }
  proto->set_restarts(static_cast<int32_t>(migration.restarts));
  if (auto error = ErrorOf(migration); error.has_value()) {
    *proto->mutable_error() = *std::move(error);
  }
  if (!migration.journal_failure.reason.empty()) {
    *proto->mutable_journal_error() =
        ToRpcStatus(MakeStatus(absl::StatusCode::kInternal, migration.journal_failure.reason,
                               migration.journal_failure.message),
                    ErrorContext{});
  }
}

}  // namespace

v1::VmmProcess ProcessToProto(const ProcessIdentity& process, const std::string& vmm) {
  v1::VmmProcess proto;
  proto.set_pid(process.pid);
  proto.set_start_ticks(static_cast<int64_t>(process.start_ticks));
  proto.set_pidfd_inode(static_cast<int64_t>(process.pidfd_inode));
  proto.set_vmm(vmm);
  return proto;
}

std::optional<v1::Blackout> BlackoutOf(const Migration& migration) {
  const uint64_t begin = migration.phases[REHOME_PHASE_PAUSE_REQUESTED];
  const uint64_t end = migration.phases[REHOME_PHASE_RUNNING];
  if (begin == 0 || end < begin) return std::nullopt;
  const uint64_t total = end - begin;
  if (total > static_cast<uint64_t>(kMaxPlausibleBlackout.count())) return std::nullopt;
  const int64_t lasted = migration.end_time_unix_ns - migration.create_time_unix_ns;
  const bool ended = migration.end_time_unix_ns != 0;
  if (ended && total > static_cast<uint64_t>(lasted > 0 ? lasted : 0)) return std::nullopt;

  v1::Blackout blackout;
  blackout.set_total_ns(static_cast<int64_t>(total));
  if (auto phases = PhasesOf(migration.phases); phases.has_value()) {
    *blackout.mutable_phases() = *std::move(phases);
  }
  return blackout;
}

std::optional<google::rpc::Status> ErrorOf(const Migration& migration) {
  if (migration.failure.reason.empty()) return std::nullopt;
  ErrorContext context;
  context.metadata["vm"] = migration.request.vm_id;
  if (!migration.id.empty()) context.metadata["migration"] = migration.id;
  google::rpc::Status status = ToRpcStatus(
      MakeStatus(CodeOfFailure(migration), migration.failure.reason, migration.failure.message),
      context);
  if (!HasFailedCheck(migration)) return status;

  google::rpc::PreconditionFailure blockers;
  for (const PreflightCheck& check : migration.preflight) {
    if (check.result != PreflightCheck::Result::kFailed) continue;
    auto* const violation = blockers.add_violations();
    violation->set_type(check.reason);
    violation->set_subject(check.name);
    violation->set_description(check.detail);
  }
  status.add_details()->PackFrom(blockers);
  return status;
}

v1::Migration ToProto(const Migration& migration) {
  v1::Migration proto;
  if (!migration.id.empty()) proto.set_name(MigrationName(migration.id));
  SetRequest(migration.request, &proto);
  proto.set_state(ToProto(migration.state));
  proto.set_guest_owner(ToProto(migration.owner));
  proto.set_revision(static_cast<int64_t>(migration.revision));
  proto.set_cancel_requested(migration.cancel_requested);
  proto.set_guest_paused(migration.phases[REHOME_PHASE_PAUSE_REQUESTED] != 0);
  proto.set_fence_policy(ToProto(StrategyIsChosen(migration) ? migration.fence_policy
                                                             : migration.request.fence_policy));
  if (StrategyIsChosen(migration)) proto.set_strategy(ToProto(migration.strategy));
  if (migration.source.pid != 0) {
    *proto.mutable_source() = ProcessToProto(migration.source, migration.source_vmm);
  }
  if (migration.target.pid != 0) {
    *proto.mutable_target() = ProcessToProto(migration.target, migration.target_vmm);
  }
  proto.set_vm_type(ToProto(migration.vm_type));
  proto.set_vcpu_count(static_cast<int32_t>(migration.vcpu_count));
  proto.set_memory_bytes(static_cast<int64_t>(migration.memory_bytes));
  if (migration.layout_digest != 0) {
    proto.set_layout_digest(absl::StrCat(absl::Hex(migration.layout_digest, absl::kZeroPad16)));
  }
  SetOutcome(migration, &proto);
  if (migration.create_time_unix_ns != 0) {
    *proto.mutable_create_time() = ToTimestamp(migration.create_time_unix_ns);
  }
  // One that is resolved has the time at which it became INDETERMINATE on record until it ends.
  if (migration.end_time_unix_ns != 0 && IsTerminal(migration.state)) {
    *proto.mutable_end_time() = ToTimestamp(migration.end_time_unix_ns);
  }
  proto.set_boot_id(migration.boot_id);
  return proto;
}

v1::VirtualMachine ToProto(const VmEntry& vm) {
  v1::VirtualMachine proto;
  proto.set_name(VmName(vm.vm_id));
  proto.set_vm_type(ToProto(vm.vm_type));
  proto.set_vcpu_count(static_cast<int32_t>(vm.vcpu_count));
  proto.set_memory_bytes(static_cast<int64_t>(vm.memory_bytes));
  *proto.mutable_process() = ProcessToProto(vm.process, vm.vmm);
  proto.set_state_format(static_cast<int32_t>(vm.state_format_write));
  if (!vm.active_migration.empty()) {
    proto.set_active_migration(MigrationName(vm.active_migration));
  }
  if (vm.register_time_unix_ns != 0) {
    *proto.mutable_register_time() = ToTimestamp(vm.register_time_unix_ns);
  }
  proto.set_revision(static_cast<int64_t>(vm.revision));
  return proto;
}

}  // namespace rehome
