// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_SEGMENT_H_
#define REHOME_VMM_REFERENCE_SEGMENT_H_

#include <cstdint>

#include "kvmglue/vcpu_state.h"

namespace rehome {

// A flat segment of 64-bit mode, code or data, at privilege level `dpl` (Intel SDM 3A, 3.4.5).
inline kvm_segment FlatSegment(uint16_t selector, bool code, uint8_t dpl) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xffffffff;
  segment.type = code ? 11 : 3;
  segment.present = 1;
  segment.dpl = dpl;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SEGMENT_H_
