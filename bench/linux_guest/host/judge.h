// SPDX-License-Identifier: Apache-2.0
//
// What a guest is promised that is moved while it works, and whether the evidence shows that it was
// kept. Pure. Evidence that is missing breaks a promise: nothing is kept because nobody looked.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_JUDGE_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_JUDGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "bench/linux_guest/host/evidence.h"

namespace rehome::linux_guest {

// What a wall clock may be off after any number of moves, on top of what the measurement cannot
// tell, and by each move: a tenth, so that one that loses much is not hidden by those that do not.
inline constexpr uint64_t kAllowedShiftNs = 1'000'000;
inline constexpr uint64_t kAllowedStepNs = 100'000;

struct Verdict {
  std::string name;     // "disk": for programs
  std::string promise;  // for people
  bool kept = false;
  std::string detail;  // figures, or what was broken first
};

// One for each promise, always the same ones in the same order.
std::vector<Verdict> Judge(const Evidence& evidence);

bool AllKept(const std::vector<Verdict>& verdicts);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_JUDGE_H_
