// SPDX-License-Identifier: Apache-2.0
//
// Which format a source's state is written in. A source says which it can write for its guest, a
// target which it can read; the newest that both know is taken, because a newer format lacks
// nothing that an older one has. Pure.
#ifndef REHOME_DAEMON_STATE_FORMATS_H_
#define REHOME_DAEMON_STATE_FORMATS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/vmm_link.h"

namespace rehome {

// From `oldest` to `newest`, both included. Empty if oldest is above newest.
struct StateFormats {
  uint32_t oldest = 0, newest = 0;
};

// What a VM that has described itself can be written in.
StateFormats WritesOf(const VmDescription& source);
// What the VMM behind a link reads.
StateFormats ReadsOf(const VmmHello& target);
// A profile's reads_state_formats as what ChooseStateFormat() takes.
std::vector<StateFormats> EachAlone(std::span<const uint32_t> formats);

// The newest of `writes` that is in one of `reads`; nothing if none is.
std::optional<uint32_t> ChooseStateFormat(StateFormats writes, std::span<const StateFormats> reads);

// The same, and if there is none FAILED_PRECONDITION / STATE_FORMAT_UNSUPPORTED, in words that name
// both: `source` is like "rehome-vmm 2.0", `target` like "VMM rehome-vmm 1.0" or "profile next".
absl::StatusOr<uint32_t> AgreeOnStateFormat(const std::string& source, StateFormats writes,
                                            const std::string& target,
                                            std::span<const StateFormats> reads);

}  // namespace rehome

#endif  // REHOME_DAEMON_STATE_FORMATS_H_
