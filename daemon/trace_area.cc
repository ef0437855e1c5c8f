// SPDX-License-Identifier: Apache-2.0
#include "daemon/trace_area.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

// Of a copy, so that nothing changes between check and use.
bool IsSane(const rehome_trace_call& call, const TraceWindow& window) {
  return call.begin_ns <= call.end_ns && call.end_ns - call.begin_ns >= REHOME_TRACE_THRESHOLD_NS &&
         call.end_ns >= window.begin_ns && call.end_ns <= window.end_ns && call.operation != 0 &&
         call.operation <= REHOME_TRACE_LAST_OPERATION &&
         (call.vcpu == REHOME_TRACE_NO_VCPU || call.vcpu < window.vcpu_count);
}

TraceCall ToCall(const rehome_trace_call& call, const TraceWindow& window) {
  TraceCall result{.operation = call.operation,
                   .thread = call.thread,
                   .begin_ns = std::max(call.begin_ns, window.begin_ns),
                   .end_ns = call.end_ns};
  if (call.vcpu != REHOME_TRACE_NO_VCPU) result.vcpu = call.vcpu;
  return result;
}

}  // namespace

TraceSide ParseTraceArea(std::span<const std::byte> bytes, const TraceWindow& window) {
  TraceSide side;
  rehome_trace_header header;
  if (bytes.size() != REHOME_TRACE_SIZE) return side;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != REHOME_TRACE_MAGIC || header.version != REHOME_TRACE_VERSION) return side;
  const uint32_t count = std::min(header.claimed, REHOME_TRACE_CALLS);
  side.dropped = std::min(header.claimed, 2 * REHOME_TRACE_CALLS) - count;
  for (uint32_t i = 0; i < count; ++i) {
    rehome_trace_call call;
    std::memcpy(&call, bytes.data() + sizeof(header) + i * sizeof(call), sizeof(call));
    if (call.complete != 1) continue;
    if (IsSane(call, window)) {
      side.calls.push_back(ToCall(call, window));
    } else {
      ++side.dropped;
    }
  }
  std::stable_sort(side.calls.begin(), side.calls.end(),
                   [](const TraceCall& a, const TraceCall& b) { return a.begin_ns < b.begin_ns; });
  return side;
}

std::unique_ptr<TraceArea> TraceArea::Create() {
  UniqueFd fd(rehome_trace_create_area());
  if (!fd) return nullptr;
  return std::unique_ptr<TraceArea>(new TraceArea(std::move(fd), rehome_monotonic_ns()));
}

TraceSide TraceArea::Read(uint32_t vcpu_count) const {
  std::vector<std::byte> bytes(REHOME_TRACE_SIZE);
  const ssize_t got = pread(fd_.borrow().raw(), bytes.data(), bytes.size(), 0);
  bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return ParseTraceArea(
      bytes, {.begin_ns = created_ns_, .end_ns = rehome_monotonic_ns(), .vcpu_count = vcpu_count});
}

}  // namespace rehome
