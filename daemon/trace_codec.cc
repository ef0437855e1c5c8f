// SPDX-License-Identifier: Apache-2.0
#include "daemon/trace_codec.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "rehome/journal/v1/trace.pb.h"

namespace rehome {
namespace {

namespace pb = ::rehome::journal::v1;

uint64_t EarliestOf(const MigrationTrace& trace) {
  uint64_t earliest = std::numeric_limits<uint64_t>::max();
  for (const TraceStep& step : trace.steps) earliest = std::min(earliest, step.begin_ns);
  for (const TraceSide* side : {&trace.source, &trace.target}) {
    for (const TraceCall& call : side->calls) earliest = std::min(earliest, call.begin_ns);
  }
  return earliest;
}

uint32_t PlaceOf(uint32_t thread, pb::TraceSide* proto) {
  const auto& threads = proto->threads();
  const auto found = std::find(threads.begin(), threads.end(), thread);
  const auto place = static_cast<uint32_t>(found - threads.begin());
  if (found == threads.end()) proto->add_threads(thread);
  return place;
}

void Put(const TraceSide& side, uint64_t base_ns, pb::TraceSide* proto) {
  uint64_t before = base_ns;
  for (const TraceCall& call : side.calls) {
    proto->add_operation(call.operation);
    proto->add_vcpu(call.vcpu.has_value() ? *call.vcpu + 1 : 0);
    proto->add_thread(PlaceOf(call.thread, proto));
    proto->add_begin_delta_ns(call.begin_ns - before);
    proto->add_duration_ns(call.end_ns - call.begin_ns);
    before = call.begin_ns;
  }
  proto->set_dropped(side.dropped);
}

// begin + duration, or nullopt if that wraps around.
std::optional<uint64_t> Sum(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

bool IsWhole(const pb::TraceSide& proto) {
  const int count = proto.operation_size();
  return static_cast<size_t>(count) <= kMaxTraceCalls && proto.vcpu_size() == count &&
         proto.thread_size() == count && proto.begin_delta_ns_size() == count &&
         proto.duration_ns_size() == count && proto.threads_size() <= count;
}

// False: it says what cannot be.
bool Take(const pb::TraceSide& proto, uint64_t base_ns, TraceSide* side) {
  if (!IsWhole(proto)) return false;
  uint64_t begin = base_ns;
  for (int i = 0; i < proto.operation_size(); ++i) {
    const std::optional<uint64_t> at = Sum(begin, proto.begin_delta_ns(i));
    const std::optional<uint64_t> end = at ? Sum(*at, proto.duration_ns(i)) : std::nullopt;
    const auto place = static_cast<int64_t>(proto.thread(i));
    if (!end.has_value() || place >= proto.threads_size()) return false;
    TraceCall call{.operation = proto.operation(i),
                   .thread = proto.threads(static_cast<int>(place)),
                   .begin_ns = *at,
                   .end_ns = *end};
    if (proto.vcpu(i) != 0) call.vcpu = proto.vcpu(i) - 1;
    side->calls.push_back(call);
    begin = *at;
  }
  side->dropped = proto.dropped();
  return true;
}

bool TakeSteps(const pb::Trace& proto, MigrationTrace* trace) {
  const int count = proto.step_size();
  if (static_cast<size_t>(count) > kMaxTraceSteps || proto.step_begin_ns_size() != count ||
      proto.step_duration_ns_size() != count) {
    return false;
  }
  for (int i = 0; i < count; ++i) {
    const std::optional<uint64_t> begin = Sum(proto.base_ns(), proto.step_begin_ns(i));
    const std::optional<uint64_t> end =
        begin ? Sum(*begin, proto.step_duration_ns(i)) : std::nullopt;
    if (!end.has_value() || proto.step(i) == 0 || proto.step(i) > kStepCount) return false;
    trace->steps.push_back(
        {.step = static_cast<Step>(proto.step(i)), .begin_ns = *begin, .end_ns = *end});
  }
  return true;
}

}  // namespace

std::string EncodeTrace(const MigrationTrace& trace) {
  pb::Trace proto;
  const uint64_t base_ns = EarliestOf(trace);
  proto.set_base_ns(base_ns);
  for (const TraceStep& step : trace.steps) {
    proto.add_step(static_cast<uint32_t>(step.step));
    proto.add_step_begin_ns(step.begin_ns - base_ns);
    proto.add_step_duration_ns(step.end_ns - step.begin_ns);
  }
  Put(trace.source, base_ns, proto.mutable_source());
  Put(trace.target, base_ns, proto.mutable_target());
  return proto.SerializeAsString();
}

absl::StatusOr<MigrationTrace> DecodeTrace(std::string_view bytes) {
  pb::Trace proto;
  MigrationTrace trace;
  if (bytes.size() <= kMaxTraceBytes &&
      proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) &&
      TakeSteps(proto, &trace) && Take(proto.source(), proto.base_ns(), &trace.source) &&
      Take(proto.target(), proto.base_ns(), &trace.target)) {
    return trace;
  }
  return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt,
                    "the trace of a migration cannot be decoded");
}

}  // namespace rehome
