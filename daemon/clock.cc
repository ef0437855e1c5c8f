// SPDX-License-Identifier: Apache-2.0
#include "daemon/clock.h"

#include <chrono>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {
constexpr char kBootIdFile[] = "/proc/sys/kernel/random/boot_id";
constexpr size_t kBootIdLength = 36;  // a UUID in text
}  // namespace

int64_t UnixNanos() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

absl::StatusOr<std::string> ReadBootId() {
  std::string boot_id;
  std::ifstream file(kBootIdFile);
  if (!std::getline(file, boot_id) || boot_id.size() != kBootIdLength) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kBootIdUnreadable,
                      absl::StrCat("cannot read ", kBootIdFile));
  }
  return boot_id;
}

}  // namespace rehome
