// SPDX-License-Identifier: Apache-2.0
//
// What a migration's trace says beside its record: when each step of the daemon began and ended,
// and which ioctls the two VMMs made around the blackout. Plain data, like daemon/migration.h; for
// people only, nothing is decided by it. docs/trace.md.
#ifndef REHOME_DAEMON_MIGRATION_TRACE_H_
#define REHOME_DAEMON_MIGRATION_TRACE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/migration.h"
#include "vmm/agent/trace.h"

namespace rehome {

// Of one migration. It has at most ten, and four more for each attempt of a rescue.
inline constexpr size_t kMaxTraceSteps = 32;
// Of each side: as many as its area has room for.
inline constexpr size_t kMaxTraceCalls = REHOME_TRACE_CALLS;

// All times are CLOCK_MONOTONIC ns of the boot Migration::boot_id.
struct TraceStep {
  Step step = Step::kQueued;
  uint64_t begin_ns = 0;
  uint64_t end_ns = 0;
  friend bool operator==(const TraceStep&, const TraceStep&) = default;
};

struct TraceCall {
  uint32_t operation = REHOME_TRACE_OTHER;  // of vmm/agent/trace_operations.h
  std::optional<uint32_t> vcpu;             // none: on the VM, or on /dev/kvm
  uint32_t thread = 0;                      // as the VMM's own namespace numbers it
  uint64_t begin_ns = 0;
  uint64_t end_ns = 0;
  friend bool operator==(const TraceCall&, const TraceCall&) = default;
};

struct TraceSide {
  std::vector<TraceCall> calls;  // in the order of begin_ns; at most kMaxTraceCalls
  uint32_t dropped = 0;          // had no room, or said what cannot be
  friend bool operator==(const TraceSide&, const TraceSide&) = default;
};

struct MigrationTrace {
  std::vector<TraceStep> steps;  // in order; at most kMaxTraceSteps
  TraceSide source;
  TraceSide target;
  friend bool operator==(const MigrationTrace&, const MigrationTrace&) = default;
};

// "KVM_GET_MSRS"; "OTHER" for what has no name.
const char* TraceOperationName(uint32_t operation);

}  // namespace rehome

#endif  // REHOME_DAEMON_MIGRATION_TRACE_H_
