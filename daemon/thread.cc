// SPDX-License-Identifier: Apache-2.0
#include "daemon/thread.h"

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {

absl::StatusOr<std::thread> StartThread(std::function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kThreadLimit,
                      absl::StrCat("cannot start a thread: ", error.what()));
  }
}

}  // namespace rehome
