// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/time_probe.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <span>

namespace rehome::linux_guest {
namespace {

// How a clock drifts that nobody moves: nanoseconds per nanosecond from the sample `since` on,
// known to `rate_error`.
struct Drift {
  const TimeSample* since = nullptr;
  double rate = 0;
  double rate_error = 0;
};

double NsBetween(const TimeSample& from, const TimeSample& to) {
  return static_cast<double>(to.host_mono) - static_cast<double>(from.host_mono);
}

// Of the two samples that know it best: each is right within its error, so that the rate is right
// within both over the time between them.
Drift DriftOf(std::span<const TimeSample> samples) {
  Drift best;
  for (size_t i = 0; i < samples.size(); ++i) {
    for (size_t j = i + 1; j < samples.size(); ++j) {
      const double elapsed = NsBetween(samples[i], samples[j]);
      if (elapsed <= 0) continue;
      const double error = static_cast<double>(samples[i].error + samples[j].error) / elapsed;
      if (best.since != nullptr && error >= best.rate_error) continue;
      best = {.since = &samples[i],
              .rate = static_cast<double>(samples[j].offset - samples[i].offset) / elapsed,
              .rate_error = error};
    }
  }
  return best;
}

// What a clock is off, and what cannot be told from 0.
struct Shift {
  int64_t ns = 0;
  uint64_t error = 0;
};

// From one sample to another one, less the drift.
Shift ShiftBetween(const TimeSample& from, const TimeSample& to, const Drift& drift) {
  const double elapsed = NsBetween(from, to);
  return {
      .ns =
          static_cast<int64_t>(static_cast<double>(to.offset - from.offset) - drift.rate * elapsed),
      .error = from.error + to.error + static_cast<uint64_t>(std::abs(drift.rate_error * elapsed))};
}

// How far beyond what is allowed and cannot be told from 0; not positive: it is within.
int64_t Excess(const Shift& shift, uint64_t allowed) {
  return std::abs(shift.ns) - static_cast<int64_t>(allowed + shift.error);
}

// Any two looks of which one is after a move, by index in `samples`.
void JudgeSteps(std::span<const TimeSample> samples, size_t before_hops, const Drift& drift,
                const WallClockLimits& limits, WallClock& found) {
  int64_t worst = std::numeric_limits<int64_t>::min();
  for (size_t to = before_hops; to < samples.size(); ++to) {
    for (size_t from = before_hops - 1; from < to; ++from) {
      const uint64_t moves = to - from;
      const Shift step = ShiftBetween(samples[from], samples[to], drift);
      const int64_t excess = Excess(step, std::min(limits.shift, limits.step * moves));
      if (excess > 0) found.kept = false;
      if (excess <= worst) continue;
      worst = excess;
      found.step_moves = moves;
      found.worst_step = step.ns;
      found.step_error = step.error;
    }
  }
}

}  // namespace

TimeSample SampleOf(uint64_t asked, uint64_t guest, uint64_t answered, uint64_t host_mono) {
  const uint64_t half = (answered - asked) / 2;
  return {.host_mono = host_mono,
          .offset = static_cast<int64_t>(guest) - static_cast<int64_t>(asked + half),
          .error = half + 1};
}

WallClock JudgeWallClock(const std::vector<TimeSample>& samples, size_t before_hops,
                         const WallClockLimits& limits) {
  WallClock found;
  if (before_hops < 2 || samples.size() <= before_hops) return found;
  const Drift drift = DriftOf(std::span(samples).first(before_hops));
  if (drift.since == nullptr) return found;
  found.drift_ppm = drift.rate * 1e6;
  found.kept = true;
  for (size_t i = before_hops; i < samples.size(); ++i) {
    const Shift shift = ShiftBetween(*drift.since, samples[i], drift);
    if (Excess(shift, limits.shift) > 0) found.kept = false;
    if (std::abs(shift.ns) >= std::abs(found.worst_shift)) {
      found.worst_shift = shift.ns;
      found.own_error = shift.error;
    }
  }
  JudgeSteps(samples, before_hops, drift, limits, found);
  return found;
}

}  // namespace rehome::linux_guest
