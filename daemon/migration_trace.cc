// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_trace.h"

namespace rehome {

const char* TraceOperationName(uint32_t operation) {
  switch (operation) {
#define REHOME_OPERATION(number, name) \
  case number:                         \
    return #name;
    REHOME_TRACE_OPERATIONS(REHOME_OPERATION)
#undef REHOME_OPERATION
    case REHOME_TRACE_LINK_GUEST_MEMFD:
      return "KVM_LINK_GUEST_MEMFD";
    default:  // a number, not an enum
      return "OTHER";
  }
}

}  // namespace rehome
