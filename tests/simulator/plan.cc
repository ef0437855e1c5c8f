// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "tests/simulator/simulation.h"

namespace rehome::sim {
namespace {

Guest RandomGuest(Random& random, size_t number) {
  Guest guest;
  guest.vm_id = absl::StrCat("vm-", number);
  guest.moves = random.OneIn(2);
  guest.policy = guest.moves       ? FencePolicy::kKernel
                 : random.OneIn(4) ? FencePolicy::kAfterResume
                                   : FencePolicy::kBeforeResume;
  return guest;
}

uint64_t Rate(Random& random, uint64_t low, uint64_t high) {
  return random.OneIn(3) ? 0 : random.Between(low, high);
}

}  // namespace

Plan PlanOf(uint64_t seed) {
  // Apart from the world's own chances, so that a plan can be changed without another world.
  Random random(seed ^ 0x5eed);
  Plan plan;
  plan.seed = seed;
  plan.service_manager = !random.OneIn(3);
  const size_t guests = random.Between(1, 3);
  for (size_t i = 0; i < guests; ++i) plan.guests.push_back(RandomGuest(random, i));
  plan.migrations = static_cast<int>(random.Between(1, 3));
  plan.noise = true;
  plan.faults.budget = static_cast<int>(random.Below(4));
  plan.faults.crash_one_in = Rate(random, 3, 60);
  plan.faults.hang_one_in = Rate(random, 3, 60);
  plan.faults.refuse_one_in = Rate(random, 8, 60);
  plan.faults.slow_one_in = Rate(random, 10, 60);
  plan.faults.until = 25 * kSecond;
  plan.daemon_deaths = static_cast<int>(random.Below(4));
  plan.daemon_dies_one_in = Rate(random, 10, 300);
  if (random.OneIn(2)) plan.daemon_dies_at.push_back(random.Between(1, 10 * kSecond));
  for (int i = 0; i < plan.daemon_deaths; ++i) {
    if (random.OneIn(2)) continue;
    plan.daemon_dies_by_append.push_back({random.Between(1, 25), random.OneIn(2)});
  }
  // Last, so that the seeds stay what they were but for this.
  for (Guest& guest : plan.guests) guest.old_agent = random.OneIn(5);
  plan.faults.probe_fails_one_in = Rate(random, 3, 30);
  return plan;
}

}  // namespace rehome::sim
