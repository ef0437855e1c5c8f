// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_log.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace rehome {

GuestLog::GuestLog(Sink sink, std::function<Clock::time_point()> now)
    : sink_(std::move(sink)), now_(std::move(now)) {}

GuestLog::~GuestLog() { TellLeftOut(limit_.TakeSuppressed()); }

void GuestLog::Line(const std::string& line) {
  const std::lock_guard lock(mutex_);
  uint64_t left_out = 0;
  if (!limit_.Allow(now_(), &left_out)) return;
  TellLeftOut(left_out);
  sink_(line);
}

void GuestLog::TellLeftOut(uint64_t count) {
  if (count > 0) sink_(absl::StrCat(count, " lines of what the guest did were left out"));
}

}  // namespace rehome
