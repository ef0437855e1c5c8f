// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/version.h"

#include "vmm/reference/state_format.h"

namespace rehome {
namespace {

// REHOME_VMM_VERSION comes from the build; a version writes the format of its own number for the
// built-in guest.
constexpr VmmVersion kVersions[] = {
    {"rehome-vmm", "1.0", 1, kOldestStateFormat, 1, 0},
    {"rehome-vmm", "2.0", 2, kOldestStateFormat, kLinuxStateFormat, kLinuxStateFormat},
};
static_assert(REHOME_VMM_VERSION >= 1 && REHOME_VMM_VERSION <= kNewestStateFormat);

}  // namespace

const VmmVersion& ThisVersion() { return kVersions[REHOME_VMM_VERSION - 1]; }

}  // namespace rehome
