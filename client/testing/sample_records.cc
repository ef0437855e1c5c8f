// SPDX-License-Identifier: Apache-2.0
#include "client/testing/sample_records.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace rehome::testing {
namespace {

constexpr int64_t kCreated = 1'795'423'687;  // 2026-11-23 08:48:07 UTC
constexpr int64_t kMemory = 512 << 20;

void AddCheck(v1::Migration* migration, const std::string& name, const std::string& detail) {
  v1::PreflightCheck* const check = migration->add_preflight_checks();
  check->set_name(name);
  check->set_result(v1::PreflightCheck::PASSED);
  check->set_detail(detail);
}

void AddHolder(v1::FenceProof::InodeSearch* search, int32_t pid, const std::string& command,
               const std::string& how, v1::FenceProof::HolderClass holder_class) {
  v1::FenceProof::Holder* const holder = search->add_holders();
  holder->set_pid(pid);
  holder->set_command(command);
  holder->set_how(how);
  holder->set_holder_class(holder_class);
}

v1::Migration Pending() {
  v1::Migration migration;
  migration.set_name("migrations/m-0123456789abcdef");
  migration.set_vm("virtualMachines/web-1");
  migration.set_target_profile("vmm-2");
  migration.set_state(v1::Migration::PENDING);
  migration.set_guest_owner(v1::Migration::SOURCE);
  migration.set_revision(1);
  migration.set_vm_type(v1::DEFAULT);
  migration.set_request_id("f81d4fae-7dec-4d0e-a765-00a0c91e6bf6");
  migration.set_requested_by("uid=0 pid=99");
  migration.mutable_create_time()->set_seconds(kCreated);
  migration.set_boot_id("3c26a4f0-51c5-4a4e-9d0f-4d4f6a3f2b11");
  return migration;
}

v1::Migration Checked() {
  v1::Migration migration = Pending();
  migration.set_state(v1::Migration::PREPARING);
  migration.set_revision(3);
  *migration.mutable_source() = SampleVm().process();
  migration.set_vcpu_count(2);
  migration.set_memory_bytes(kMemory);
  migration.set_layout_digest("00c0ffee00c0ffee");
  migration.set_strategy(v1::Migration::MAP);
  migration.set_fence_policy(v1::Migration::BEFORE_RESUME);
  AddCheck(&migration, "source_registered", "rehome-vmm 1.0, pid 1234");
  AddCheck(&migration, "profile_usable", "vmm-2");
  AddCheck(&migration, "strategy_supported", "MAP");
  v1::PreflightCheck* const move = migration.add_preflight_checks();
  move->set_name("context_movable");
  move->set_result(v1::PreflightCheck::NOT_APPLICABLE);
  move->set_detail("the VM has no encryption context");
  return migration;
}

v1::Migration Launched() {
  v1::Migration migration = Checked();
  migration.set_revision(4);
  migration.mutable_target()->set_pid(4321);
  migration.mutable_target()->set_start_ticks(9001);
  migration.mutable_target()->set_vmm("rehome-vmm 2.0");
  return migration;
}

v1::Migration HandingOver() {
  v1::Migration migration = Launched();
  migration.set_revision(5);
  migration.set_state(v1::Migration::HANDING_OVER);
  migration.set_guest_owner(v1::Migration::UNDECIDED);
  migration.set_guest_paused(true);
  return migration;
}

v1::Migration Completing() {
  v1::Migration migration = HandingOver();
  migration.set_revision(6);
  migration.set_state(v1::Migration::COMPLETING);
  migration.set_guest_owner(v1::Migration::TARGET);
  v1::Blackout* const blackout = migration.mutable_blackout();
  blackout->set_total_ns(312'400);
  v1::Blackout::Phases* const phases = blackout->mutable_phases();
  phases->set_stop_vcpus_ns(41'000);
  phases->set_save_state_ns(88'200);
  phases->set_claim_ns(7'100);
  phases->set_move_ns(0);
  phases->set_restore_state_ns(120'300);
  phases->set_fence_ns(42'100);
  phases->set_resume_ns(13'700);
  return migration;
}

v1::Migration Succeeded() {
  v1::Migration migration = Completing();
  migration.set_revision(7);
  migration.set_state(v1::Migration::SUCCEEDED);
  migration.mutable_end_time()->set_seconds(kCreated + 1);
  v1::FenceProof* const proof = migration.mutable_fence_proof();
  proof->set_complete(true);
  proof->set_process_exited(true);
  proof->set_stopped_before_resume(true);
  proof->set_observer("rehomed");
  *proof->mutable_source() = migration.source();
  proof->set_kill_sent_monotonic_ns(5'000'000'000);
  proof->set_tasks_stopped_monotonic_ns(5'000'042'000);
  proof->set_exited_monotonic_ns(5'003'100'000);
  proof->set_inodes_checked(1);
  proof->set_kernel_release("6.18.5");
  v1::FenceProof::Observer daemon;
  daemon.set_role("rehomed");
  daemon.mutable_process()->set_pid(99);
  daemon.mutable_process()->set_start_ticks(3000);
  daemon.mutable_process()->set_pidfd_inode(42);
  *proof->mutable_stop_observer() = daemon;
  *proof->mutable_exit_observer() = daemon;
  proof->set_search_monotonic_ns(5'003'400'000);
  v1::FenceProof::InodeSearch* const search = proof->add_memory();
  search->set_device(1);
  search->set_inode(1027);
  AddHolder(search, 4321, "rehome-vmm", "mapping", v1::FenceProof::TARGET);
  AddHolder(search, 99, "rehomed", "fd", v1::FenceProof::DAEMON);
  return migration;
}

void SetError(v1::Migration* migration, int code, const std::string& reason,
              const std::string& message) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("rehome");
  migration->mutable_error()->set_code(code);
  migration->mutable_error()->set_message(message);
  migration->mutable_error()->add_details()->PackFrom(info);
  migration->mutable_end_time()->set_seconds(kCreated + 1);
}

}  // namespace

v1::VirtualMachine SampleVm() {
  v1::VirtualMachine vm;
  vm.set_name("virtualMachines/web-1");
  vm.set_vm_type(v1::DEFAULT);
  vm.set_vcpu_count(2);
  vm.set_memory_bytes(kMemory);
  vm.mutable_process()->set_pid(1234);
  vm.mutable_process()->set_start_ticks(5000);
  vm.mutable_process()->set_vmm("rehome-vmm 1.0");
  vm.set_state_format(1);
  vm.mutable_register_time()->set_seconds(kCreated - 60);
  vm.set_revision(1);
  return vm;
}

v1::Host SampleHost() {
  v1::Host host;
  host.set_name("host");
  host.set_version("0.1.0");
  host.set_backend("kvm");
  host.set_kernel_release("6.18.5");
  host.set_machine("AMD EPYC 9654 96-Core Processor");
  host.set_boot_id("3c26a4f0-51c5-4a4e-9d0f-4d4f6a3f2b11");
  host.mutable_start_time()->set_seconds(kCreated - 3600);
  v1::Capability* const kvm = host.add_capabilities();
  kvm->set_name("kvm");
  kvm->set_available(true);
  kvm->set_detail("API version 12");
  v1::Capability* const link = host.add_capabilities();
  link->set_name("guest_memfd_link");
  link->set_reason("LINK_UNSUPPORTED");
  link->set_detail("ioctl 0xd6: ENOTTY");
  v1::VmmProfile* const profile = host.add_vmm_profiles();
  profile->set_name("vmm-2");
  profile->set_enabled(true);
  profile->add_reads_state_formats(1);
  profile->add_reads_state_formats(2);
  host.mutable_limits()->set_max_concurrent_migrations(8);
  host.mutable_limits()->set_max_pending_migrations(256);
  host.mutable_limits()->set_max_virtual_machines(8192);
  host.set_link_ioctl_number(0xd6);
  host.mutable_pinned_memory()->set_indeterminate_bytes(kMemory);
  return host;
}

std::vector<v1::Migration> SampleHistory() {
  v1::Migration preparing = Pending();
  preparing.set_state(v1::Migration::PREPARING);
  preparing.set_revision(2);
  return {Pending(), preparing, Checked(), Launched(), HandingOver(), Completing(), Succeeded()};
}

v1::Migration BlockedMigration() {
  v1::Migration migration = Checked();
  migration.set_revision(5);
  migration.set_state(v1::Migration::FAILED);
  migration.clear_strategy();
  v1::PreflightCheck* const check = migration.mutable_preflight_checks(2);
  check->set_result(v1::PreflightCheck::FAILED);
  check->set_reason("STRATEGY_UNSUPPORTED");
  check->set_detail("sw-protected needs KVM_LINK_GUEST_MEMFD, which this kernel does not have");
  SetError(&migration, grpc::StatusCode::FAILED_PRECONDITION, "STRATEGY_UNSUPPORTED",
           "1 of 4 preflight checks failed");
  return migration;
}

v1::Migration RolledBackMigration() {
  v1::Migration migration = Launched();
  migration.set_revision(7);
  migration.set_state(v1::Migration::FAILED);
  SetError(&migration, grpc::StatusCode::ABORTED, "AGENT_REFUSED_STATE_FORMAT",
           "the target cannot read state format 1");
  return migration;
}

v1::Migration CancelledMigration() {
  v1::Migration migration = Launched();
  migration.set_revision(7);
  migration.set_state(v1::Migration::CANCELLED);
  migration.set_cancel_requested(true);
  SetError(&migration, grpc::StatusCode::CANCELLED, "CANCELLED", "cancelled by uid=0 pid=100");
  return migration;
}

v1::Migration IndeterminateMigration() {
  v1::Migration migration = HandingOver();
  migration.set_revision(7);
  migration.set_state(v1::Migration::INDETERMINATE);
  SetError(&migration, grpc::StatusCode::UNKNOWN, "OWNER_UNKNOWN",
           "neither VMM answers and neither is proven dead");
  return migration;
}

v1::Migration RescuedMigration() {
  v1::Migration migration = Succeeded();
  migration.set_revision(12);
  migration.set_restarts(1);
  migration.set_interrupted_step("HANDING_OVER");
  v1::Rescue* const rescue = migration.mutable_rescue();
  rescue->set_attempts(2);
  *rescue->mutable_dead_target() = migration.target();
  migration.mutable_target()->set_pid(4400);
  migration.mutable_target()->set_start_ticks(9100);
  v1::Migration cause;
  SetError(&cause, grpc::StatusCode::ABORTED, "TARGET_DIED",
           "the target VMM died before it ran the guest");
  *rescue->mutable_cause() = cause.error();
  SetError(&cause, grpc::StatusCode::ABORTED, "HANDOVER_STUCK",
           "the rescue's target did not run the guest within both time-outs");
  *rescue->add_failed_attempts() = cause.error();
  migration.mutable_fence_proof()->mutable_memory(0)->mutable_holders(0)->set_pid(4400);
  return migration;
}

v1::Migration LostMigration() {
  v1::Migration migration = HandingOver();
  migration.set_revision(7);
  migration.set_state(v1::Migration::FAILED);
  migration.set_guest_owner(v1::Migration::NOBODY);
  SetError(&migration, grpc::StatusCode::DATA_LOSS, "SOURCE_LOST",
           "the source died before the hand-over");
  return migration;
}

v1::Migration UnprovenMigration() {
  v1::Migration migration = Succeeded();
  migration.set_state(v1::Migration::FAILED);
  migration.mutable_fence_proof()->set_complete(false);
  v1::FenceProof::InodeSearch* const search = migration.mutable_fence_proof()->mutable_memory(0);
  AddHolder(search, 777, "gdb", "mapping", v1::FenceProof::FOREIGN);
  search->set_foreign_count(1);
  *migration.mutable_fence_proof()->add_foreign_holders() = search->holders(2);
  SetError(&migration, grpc::StatusCode::INTERNAL, "FENCE_INCOMPLETE",
           "another process still holds guest memory");
  return migration;
}

grpc::Status SampleError(grpc::StatusCode code, const std::string& reason,
                         const std::string& message) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("rehome");
  (*info.mutable_metadata())["vm"] = "web-1";
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(info);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace rehome::testing
