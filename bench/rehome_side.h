// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_REHOME_SIDE_H_
#define REHOME_BENCH_REHOME_SIDE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/floor_side.h"
#include "bench/hop_sample.h"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {

// Between which VMMs the guest moves.
struct Movers {
  std::string profile;                 // of every target; "": that of the newer VMM
  std::vector<std::string> arguments;  // more options of the VMM that starts the guest
};

// Starts a guest under the reference VMM, moves it `hops` times through the daemon and the API, and
// ends it. Every page of its memory is allocated, as it is on the floor. The guest must be without
// error in the end.
absl::StatusOr<HopSamples> RunRehome(harness::HostUnderTest& host, const GuestShape& shape,
                                     int hops, v1::Migration::FencePolicy fence_policy,
                                     const Movers& movers = {});

// Of a record that SUCCEEDED with a blackout in it; an error otherwise.
absl::StatusOr<HopSample> SampleOf(const v1::Migration& migration);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_REHOME_SIDE_H_
