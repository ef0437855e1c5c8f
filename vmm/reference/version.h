// SPDX-License-Identifier: Apache-2.0
//
// The two versions of rehome-vmm, built from one source: what a user upgrades from and to.
#ifndef REHOME_VMM_REFERENCE_VERSION_H_
#define REHOME_VMM_REFERENCE_VERSION_H_

#include <cstdint>

namespace rehome {

// State formats, both included (state_format.h).
struct FormatRange {
  uint32_t oldest, newest;
};

struct VmmVersion {
  const char* name;     // "rehome-vmm"
  const char* version;  // "1.0"
  FormatRange writes;   // of the built-in guest: what its source is told to
  FormatRange reads;
  FormatRange writes_linux;  // of a Linux guest; 0: this version runs the built-in guest only
  bool has_linux() const { return writes_linux.newest != 0; }
};

// The version that this program was built as.
const VmmVersion& ThisVersion();

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VERSION_H_
