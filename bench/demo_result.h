// SPDX-License-Identifier: Apache-2.0
//
// All hops of a demo together.
#ifndef REHOME_BENCH_DEMO_RESULT_H_
#define REHOME_BENCH_DEMO_RESULT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bench/demo_options.h"
#include "bench/hop_account.h"
#include "bench/hop_sample.h"
#include "nlohmann/json.hpp"

namespace rehome::bench {

class DemoResult {
 public:
  void Add(const HopFacts& facts);
  void AddLeftovers(const std::vector<std::string>& leftovers);

  const HopSamples& hops() const { return hops_; }
  double longest_guest_gap_us() const { return GuestGapOf(hops_).max; }
  bool guest_intact() const { return !hops_.empty() && guest_intact_; }
  uint64_t copied_bytes() const { return copied_bytes_; }
  const std::vector<std::string>& leftovers() const { return leftovers_; }
  // Everything that was claimed in any hop holds, at least one hop was made, and nothing is left.
  bool good() const { return !hops_.empty() && claims_hold_ && leftovers_.empty(); }

  // `backend`, `vm_type`, `vcpus`, `memory_mib`, `hops`, `blackout_us`, `guest_gap_us`,
  // `guest_intact`, `memory_copied_bytes`, `fence`, `leftovers`.
  nlohmann::ordered_json ToJson(const DemoOptions& options, const DemoPlan& plan) const;

 private:
  // True only if it was so in every hop.
  struct Fence {
    std::string policy;
    bool complete = true;
    bool process_exited = true;
    bool stopped_before_resume = true;
    bool kernel_vm_dead = true;
    int foreign_holders = 0;
  };

  HopSamples hops_;
  Fence fence_;
  bool claims_hold_ = true;
  bool guest_intact_ = true;
  uint64_t copied_bytes_ = 0;
  std::vector<std::string> leftovers_;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_DEMO_RESULT_H_
