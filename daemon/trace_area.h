// SPDX-License-Identifier: Apache-2.0
//
// The area of one side's trace (vmm/agent/trace.h): made here, lent to a VMM, read when the hop is
// over. The VMM may be dead by then, and may have written anything.
#ifndef REHOME_DAEMON_TRACE_AREA_H_
#define REHOME_DAEMON_TRACE_AREA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "daemon/migration_trace.h"
#include "kvmglue/fd.h"

namespace rehome {

// What a call can be of.
struct TraceWindow {
  uint64_t begin_ns = 0;  // CLOCK_MONOTONIC
  uint64_t end_ns = 0;
  uint32_t vcpu_count = 0;
};

// Takes an area's bytes apart. Never fails: calls that are incomplete are left out; calls that end
// before they begin or outside of the window, of an operation or a vCPU that is not, or that were
// shorter than the threshold, count as dropped. A call that began before the window is cut to it.
// An area of another size or with another header has no calls.
TraceSide ParseTraceArea(std::span<const std::byte> bytes, const TraceWindow& window);

// Used by one thread.
class TraceArea {
 public:
  // Null if the memfd cannot be had.
  static std::unique_ptr<TraceArea> Create();

  BorrowedFd fd() const { return fd_.borrow(); }
  // What has been written from Create() to now.
  TraceSide Read(uint32_t vcpu_count) const;

 private:
  TraceArea(UniqueFd fd, uint64_t created_ns) : fd_(std::move(fd)), created_ns_(created_ns) {}

  const UniqueFd fd_;
  const uint64_t created_ns_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TRACE_AREA_H_
