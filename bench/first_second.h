// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_FIRST_SECOND_H_
#define REHOME_BENCH_FIRST_SECOND_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/floor_side.h"
#include "bench/round_latency.h"

namespace rehome::bench {

// What a guest's rounds take in a second before its move, and in the first second after it.
struct FirstSecond {
  RoundLatency before;
  // Without the round that the blackout was in.
  RoundLatency after;
};

// Starts a guest on a host of its own that works on all of its memory as fast as it goes, lets it
// run until it has its page tables, counts for a second, moves it to a target with
// `target_arguments`, counts for the second after, ends it, and adds what was counted to `result`.
// Whatever fails, and DEADLINE_EXCEEDED if the second could not be looked at in time.
absl::Status AddFirstSecond(const GuestShape& shape,
                            const std::vector<std::string>& target_arguments, FirstSecond& result);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FIRST_SECOND_H_
