// SPDX-License-Identifier: Apache-2.0
#include "bench/sample_hop.h"

namespace rehome::bench {
namespace {

constexpr int kOldPid = 4711;
constexpr int kNewPid = 4720;
constexpr uint64_t kMemoryBytes = 64u << 20;

VmmFacts Vmm(int pid, const char* name, int state_format, const char* executable, uint64_t hva) {
  VmmFacts facts = {.executable = executable};
  facts.vm.mutable_process()->set_pid(pid);
  facts.vm.mutable_process()->set_vmm(name);
  facts.vm.set_state_format(state_format);
  facts.memory = {{.inode = {.device = 16, .inode = 8733}, .size_bytes = kMemoryBytes, .hva = hva}};
  return facts;
}

void AddCheck(const char* name, v1::PreflightCheck::Result result, v1::Migration& migration) {
  v1::PreflightCheck& check = *migration.add_preflight_checks();
  check.set_name(name);
  check.set_result(result);
}

v1::Migration Record() {
  v1::Migration migration;
  migration.set_name("migrations/1");
  migration.set_state(v1::Migration::SUCCEEDED);
  migration.set_guest_owner(v1::Migration::TARGET);
  migration.set_strategy(v1::Migration::MAP);
  migration.set_fence_policy(v1::Migration::BEFORE_RESUME);
  migration.mutable_source()->set_pid(kOldPid);
  migration.mutable_target()->set_pid(kNewPid);
  migration.set_layout_digest("0123456789abcdef");
  AddCheck("strategy_supported", v1::PreflightCheck::PASSED, migration);
  AddCheck("profile_known", v1::PreflightCheck::PASSED, migration);
  AddCheck("kernel_link", v1::PreflightCheck::NOT_APPLICABLE, migration);
  v1::Blackout& blackout = *migration.mutable_blackout();
  blackout.set_total_ns(412'000);
  blackout.mutable_phases()->set_stop_vcpus_ns(60'500);
  blackout.mutable_phases()->set_save_state_ns(50'000);
  blackout.mutable_phases()->set_restore_state_ns(121'500);
  blackout.mutable_phases()->set_fence_ns(180'000);
  v1::FenceProof& proof = *migration.mutable_fence_proof();
  proof.set_complete(true);
  proof.set_process_exited(true);
  proof.set_stopped_before_resume(true);
  proof.set_observer("rehomed");
  proof.mutable_source()->set_pid(kOldPid);
  proof.set_kill_sent_monotonic_ns(5);
  proof.set_inodes_checked(1);
  return migration;
}

}  // namespace

HopFacts GoodHop() {
  return {.number = 2,
          .before = Vmm(kOldPid, "rehome-vmm 1.0", 1, "rehome-vmm-1", 0x7f0000000000),
          .after = Vmm(kNewPid, "rehome-vmm 2.0", 2, "rehome-vmm-2", 0x7e0000000000),
          .migration = Record(),
          .expected_executable = "rehome-vmm-2",
          .old_process_gone = true,
          .holders = {{.pid = kNewPid, .executable = "rehome-vmm-2", .how = "mapping"}},
          .frames_known = true,
          .frames = {.same = 16384},
          .guest_gap_us = 455,
          .guest = {.intact = true, .steps = 1'234'567, .pages_compared = 1024},
          .first_heartbeat = 12,
          .last_heartbeat = 21};
}

}  // namespace rehome::bench
