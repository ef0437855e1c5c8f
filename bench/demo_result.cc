// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_result.h"

#include "bench/blackout_phases.h"

namespace rehome::bench {

using nlohmann::ordered_json;

void DemoResult::Add(const HopFacts& facts) {
  hops_.push_back({.blackout_us = static_cast<double>(facts.migration.blackout().total_ns()) / 1000,
                   .guest_gap_us = facts.guest_gap_us,
                   .phases_us = PhasesOf(facts.migration.blackout())});
  const v1::FenceProof& proof = facts.migration.fence_proof();
  fence_.policy = v1::Migration::FencePolicy_Name(facts.migration.fence_policy());
  fence_.complete &= proof.complete();
  fence_.process_exited &= proof.process_exited() && facts.old_process_gone;
  fence_.stopped_before_resume &= proof.stopped_before_resume();
  fence_.kernel_vm_dead &= proof.kernel_vm_dead();
  fence_.foreign_holders += proof.foreign_holders_size();
  claims_hold_ &= AllHold(ClaimsOf(facts));
  guest_intact_ &= facts.guest.intact && facts.guest.errors == 0;
  copied_bytes_ += CopiedBytes(facts);
}

void DemoResult::AddLeftovers(const std::vector<std::string>& leftovers) {
  leftovers_.insert(leftovers_.end(), leftovers.begin(), leftovers.end());
}

ordered_json DemoResult::ToJson(const DemoOptions& options, const DemoPlan& plan) const {
  const Summary blackout = BlackoutOf(hops_);
  ordered_json phases = ordered_json::object();
  for (const auto& [name, micros] : PhaseMedians(hops_)) phases[name] = micros;
  const bool any = !hops_.empty();
  return {
      {"backend", plan.backend},
      {"vm_type", plan.vm_type},
      {"vcpus", options.vcpus},
      {"memory_mib", options.memory_mib},
      {"hops", hops_.size()},
      {"blackout_us",
       {{"p50", blackout.p50}, {"p99", blackout.p99}, {"max", blackout.max}, {"phases", phases}}},
      {"guest_gap_us", longest_guest_gap_us()},
      {"guest_intact", guest_intact()},
      {"memory_copied_bytes", copied_bytes_},
      {"fence",
       {{"policy", fence_.policy},
        {"complete", any && fence_.complete},
        {"process_exited", any && fence_.process_exited},
        {"stopped_before_resume", any && fence_.stopped_before_resume},
        {"kernel_vm_dead", any && fence_.kernel_vm_dead},
        {"foreign_holders", fence_.foreign_holders}}},
      {"leftovers", leftovers_}};
}

}  // namespace rehome::bench
