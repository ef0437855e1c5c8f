// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/console_line.h"

#include <cinttypes>
#include <cstdio>
#include <span>

#include "bench/linux_guest/pattern.h"

namespace rehome::linux_guest {

std::string TickLine(const Tick& tick) {
  const std::string said =
      "tick " + std::to_string(tick.number) + " mono " + std::to_string(tick.mono_ns);
  char sum[32];
  snprintf(sum, sizeof(sum), " sum %016" PRIx64, Checksum(std::as_bytes(std::span(said))));
  return said + sum;
}

std::optional<Tick> ParseTick(std::string_view line) {
  const std::string text(line);
  Tick tick;
  if (sscanf(text.c_str(), "tick %" SCNu64 " mono %" SCNu64, &tick.number, &tick.mono_ns) != 2) {
    return std::nullopt;
  }
  if (TickLine(tick) != line) return std::nullopt;
  return tick;
}

}  // namespace rehome::linux_guest
