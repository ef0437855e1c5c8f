// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/os_status.h"

#include <string>

#include "kvmglue/status_reason.h"

namespace rehome {

absl::Status OsError(std::string_view call, std::string_view what, int error) {
  const std::string message = std::string(call) + " " + std::string(what);
  const absl::Status translated = absl::ErrnoToStatus(error, message);
  return MakeStatus(translated.code(), "OS_CALL_FAILED", std::string(translated.message()));
}

}  // namespace rehome
