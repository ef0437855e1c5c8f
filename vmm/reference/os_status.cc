// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/os_status.h"

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {

absl::Status OsError(std::string_view call, std::string_view what, int error) {
  const absl::Status translated = absl::ErrnoToStatus(error, absl::StrCat(call, " ", what));
  return MakeStatus(translated.code(), "OS_CALL_FAILED", translated.message());
}

}  // namespace rehome
