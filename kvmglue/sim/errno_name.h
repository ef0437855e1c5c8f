// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_ERRNO_NAME_H_
#define REHOME_KVMGLUE_SIM_ERRNO_NAME_H_

#include <optional>
#include <string_view>

namespace rehome {

// "EINVAL" -> 22.
std::optional<int> ErrnoFromName(std::string_view name);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_ERRNO_NAME_H_
