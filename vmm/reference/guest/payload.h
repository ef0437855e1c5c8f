// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_GUEST_PAYLOAD_H_
#define REHOME_VMM_REFERENCE_GUEST_PAYLOAD_H_

#include <cstdint>
#include <span>

namespace rehome {

// The built-in guest as a flat image for REHOME_GUEST_CODE, at most REHOME_GUEST_CODE_MAX bytes.
std::span<const uint8_t> GuestPayload();

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_PAYLOAD_H_
