// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/state.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "VIRTIO_STATE_INVALID", what);
}

// nullptr if the queue can be so.
const char* WhatIsWrong(const QueueState& queue, bool features_ok) {
  if (queue.ready > 1) return "ready is neither 0 nor 1";
  if (queue.reserved != 0) return "reserved bytes are not zero";
  if (queue.size > kMaxQueueSize) return "too long";
  if (queue.ready == 0) return queue.index == 0 ? nullptr : "served, and not ready";
  if (!features_ok) return "ready before the features are";
  if (!std::has_single_bit(queue.size)) return "ready, with a size that is no power of two";
  return nullptr;
}

}  // namespace

absl::Status VirtioState::Validate() const {
  if (magic != kVirtioStateMagic) return Invalid("not the state of a virtio device");
  if (version != kVirtioStateVersion) return Invalid(absl::StrCat("version ", version));
  if ((status & ~uint32_t{kStatusAllBits}) != 0) return Invalid("unknown bits in status");
  const bool features_ok = (status & kStatusFeaturesOk) != 0;
  if (features_ok && (driver_features & kFeatureVersion1) == 0) {
    return Invalid("features accepted without VERSION_1");
  }
  if ((status & kStatusDriverOk) != 0 && !features_ok) return Invalid("live without features");
  if ((interrupt_status & ~uint32_t{kInterruptAllBits}) != 0) {
    return Invalid("unknown bits in the interrupt status");
  }
  if (queue_count == 0 || queue_count > kMaxQueues) {
    return Invalid(absl::StrCat(queue_count, " queues"));
  }
  for (size_t i = 0; i < kMaxQueues; ++i) {
    if (i >= queue_count && queues[i] != QueueState{}) {
      return Invalid(absl::StrCat("queue ", i, " should be empty"));
    }
    if (const char* wrong = WhatIsWrong(queues[i], features_ok)) {
      return Invalid(absl::StrCat("queue ", i, ": ", wrong));
    }
  }
  return absl::OkStatus();
}

}  // namespace rehome::virtio
