// SPDX-License-Identifier: Apache-2.0
//
// The lines on the guest's console that come each second (workload_abi.h), without the prefix.
#ifndef REHOME_BENCH_LINUX_GUEST_CONSOLE_LINE_H_
#define REHOME_BENCH_LINUX_GUEST_CONSOLE_LINE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rehome::linux_guest {

struct Tick {
  uint64_t number = 0;
  uint64_t mono_ns = 0;  // the guest's monotonic clock
};

std::string TickLine(const Tick& tick);
// Nothing if any character is not as TickLine() makes it.
std::optional<Tick> ParseTick(std::string_view line);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_CONSOLE_LINE_H_
