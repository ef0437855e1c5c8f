// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/time_probe.h"

#include <cstdlib>
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

}  // namespace

TimeSample SampleOf(uint64_t asked, uint64_t guest, uint64_t answered, uint64_t host_mono) {
  const uint64_t half = (answered - asked) / 2;
  return {.host_mono = host_mono,
          .offset = static_cast<int64_t>(guest) - static_cast<int64_t>(asked + half),
          .error = half + 1};
}

WallClock JudgeWallClock(const std::vector<TimeSample>& samples, size_t before_hops,
                         uint64_t allowed) {
  WallClock found;
  if (before_hops < 2 || samples.size() <= before_hops) return found;
  const Drift drift = DriftOf(std::span(samples).first(before_hops));
  if (drift.since == nullptr) return found;
  found.drift_ppm = drift.rate * 1e6;
  found.kept = true;
  for (size_t i = before_hops; i < samples.size(); ++i) {
    const double elapsed = NsBetween(*drift.since, samples[i]);
    const auto shift = static_cast<int64_t>(
        static_cast<double>(samples[i].offset - drift.since->offset) - drift.rate * elapsed);
    const uint64_t own = drift.since->error + samples[i].error +
                         static_cast<uint64_t>(std::abs(drift.rate_error * elapsed));
    if (static_cast<uint64_t>(std::abs(shift)) > allowed + own) found.kept = false;
    if (std::abs(shift) >= std::abs(found.worst_shift)) {
      found.worst_shift = shift;
      found.own_error = own;
    }
  }
  return found;
}

}  // namespace rehome::linux_guest
