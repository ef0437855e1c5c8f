// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/time_probe.h"

#include <cstdlib>

namespace rehome::linux_guest {

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
  const TimeSample& first = samples[0];
  const TimeSample& last = samples[before_hops - 1];
  const double seconds = static_cast<double>(last.host_mono - first.host_mono) / 1e9;
  const auto drifted = static_cast<double>(last.offset - first.offset);
  const auto unsure = static_cast<double>(last.error + first.error);
  double rate = 0;  // ns per second
  double rate_error = 0;
  if (seconds > 0 && std::abs(drifted) > unsure) {
    rate = drifted / seconds;
    rate_error = unsure / seconds;
  }
  found.drift_ppm = rate / 1000;
  found.kept = true;
  for (size_t i = before_hops; i < samples.size(); ++i) {
    const double elapsed = static_cast<double>(samples[i].host_mono - first.host_mono) / 1e9;
    const auto shift = static_cast<int64_t>(static_cast<double>(samples[i].offset - first.offset) -
                                            rate * elapsed);
    const uint64_t own =
        first.error + samples[i].error + static_cast<uint64_t>(rate_error * elapsed);
    if (static_cast<uint64_t>(std::abs(shift)) > allowed + own) found.kept = false;
    if (std::abs(shift) >= std::abs(found.worst_shift)) {
      found.worst_shift = shift;
      found.own_error = own;
    }
  }
  return found;
}

}  // namespace rehome::linux_guest
