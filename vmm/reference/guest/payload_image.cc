// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest/payload.h"

namespace rehome {
namespace {

constexpr uint8_t kImage[] = {
#include "vmm/reference/guest/payload_image.inc"
};
static_assert(sizeof(kImage) > REHOME_GUEST_TIMER_STUB - REHOME_GUEST_CODE);
static_assert(sizeof(kImage) <= REHOME_GUEST_CODE_MAX);

}  // namespace

std::span<const uint8_t> GuestPayload() { return kImage; }

}  // namespace rehome
