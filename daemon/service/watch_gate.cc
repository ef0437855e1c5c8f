// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/watch_gate.h"

#include <string>

#include "daemon/reasons.h"
#include "daemon/service/service_reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {

absl::StatusOr<WatchGate::Pass> WatchGate::Enter() {
  if (closed()) return ClosedError();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (streams_ >= max_streams_) {
    return MakeStatus(
        absl::StatusCode::kResourceExhausted, service_reason::kTooManyWatches,
        "all " + std::to_string(max_streams_) + " watch streams of this daemon are in use");
  }
  ++streams_;
  return Pass(this);
}

void WatchGate::Close() { closed_.store(true, std::memory_order_release); }

absl::Status WatchGate::ClosedError() {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                    "the daemon is stopping");
}

void WatchGate::Exit() {
  const std::lock_guard<std::mutex> lock(mutex_);
  --streams_;
}

}  // namespace rehome
