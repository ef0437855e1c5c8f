// SPDX-License-Identifier: Apache-2.0
//
// Errors of system calls that are not KVM's (those are translated in kvmglue/errno_status.h).
#ifndef REHOME_VMM_REFERENCE_OS_STATUS_H_
#define REHOME_VMM_REFERENCE_OS_STATUS_H_

#include <string_view>

#include "absl/status/status.h"

namespace rehome {

// "CALL WHAT: text of errno" with errno's canonical code and reason OS_CALL_FAILED. `error` is
// passed in, not read, so that it is captured with the call.
absl::Status OsError(std::string_view call, std::string_view what, int error);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_OS_STATUS_H_
