// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/version.h"

#include "vmm/reference/state_format.h"

namespace rehome {
namespace {

// REHOME_VMM_VERSION comes from the build. A version's own format for the built-in guest is that of
// its number; it also writes the one before, so that a guest can go back. Version 1, as it was
// released, knows its own only.
constexpr VmmVersion kVersions[] = {
    {"rehome-vmm", "1.0", {1, 1}, {1, 1}, {0, 0}},
    {"rehome-vmm",
     "2.0",
     {1, 2},
     {kOldestStateFormat, kNewestStateFormat},
     {kLinuxStateFormat, kLinuxStateFormat}},
};
static_assert(REHOME_VMM_VERSION >= 1 && REHOME_VMM_VERSION <= kNewestStateFormat);

}  // namespace

const VmmVersion& ThisVersion() { return kVersions[REHOME_VMM_VERSION - 1]; }

}  // namespace rehome
