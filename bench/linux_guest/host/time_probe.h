// SPDX-License-Identifier: Apache-2.0
//
// How far the guest's wall clock is from the host's, as NTP finds it.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_TIME_PROBE_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_TIME_PROBE_H_

#include <cstdint>
#include <vector>

#include "bench/linux_guest/host/evidence.h"

namespace rehome::linux_guest {

// Of one exchange: the guest answered with `guest` between `asked` and `answered` of the host's
// wall clock, so that the offset is within half of that time of the middle. Nanoseconds.
TimeSample SampleOf(uint64_t asked, uint64_t guest, uint64_t answered, uint64_t host_mono);

// What a clock may be off, on top of what the measurement cannot tell; nanoseconds.
struct WallClockLimits {
  uint64_t shift = 0;  // after any number of moves
  uint64_t step = 0;   // by each move
};

// What the samples say of a wall clock that is moved again and again.
struct WallClock {
  // The worst that a sample is from where the clock would be had nothing moved it; nanoseconds.
  int64_t worst_shift = 0;
  // What the measurement cannot tell from 0 at that sample: the exchanges' own length, and how well
  // the drift is known over the time since.
  uint64_t own_error = 0;
  // Of two looks, from the last before the first move on, those that show most beyond what is
  // allowed and what they cannot tell from 0 (their own lengths, and how well the drift is known
  // over the time between them): how many moves were between them, and how far the clock went.
  uint64_t step_moves = 0;
  int64_t worst_step = 0;
  uint64_t step_error = 0;
  double drift_ppm = 0;  // measured before the first move
  bool kept = false;     // all was within the limits and its own error
};

// The first `before_hops` samples were taken before anything moved, at least two of them: they show
// how the two clocks drift by themselves, which is subtracted. Take them for as long as the moves
// will last, or the drift's error outgrows what is looked for. Of the others there is one after
// each move. Judged is each of them against the clock before the first move, where the drift's
// error grows with time and small losses hide in it, and any two looks against each other: across
// one move, where that error is small, and across several, where what each loses adds up.
WallClock JudgeWallClock(const std::vector<TimeSample>& samples, size_t before_hops,
                         const WallClockLimits& limits);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_TIME_PROBE_H_
