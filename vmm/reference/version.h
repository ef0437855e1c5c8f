// SPDX-License-Identifier: Apache-2.0
//
// The two versions of rehome-vmm, built from one source: what a user upgrades from and to.
#ifndef REHOME_VMM_REFERENCE_VERSION_H_
#define REHOME_VMM_REFERENCE_VERSION_H_

#include <cstdint>

namespace rehome {

struct VmmVersion {
  const char* name;     // "rehome-vmm"
  const char* version;  // "1.0"
  uint32_t state_format_write;
  uint32_t state_format_read_min, state_format_read_max;
  uint32_t linux_state_format;  // of a Linux guest; 0: this version runs the built-in guest only
};

// The version that this program was built as.
const VmmVersion& ThisVersion();

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VERSION_H_
