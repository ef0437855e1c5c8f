// SPDX-License-Identifier: Apache-2.0
//
// The two things that say what is in a trace: an area that a VMM filled, and the bytes in the
// journal. Promises: calls are in order, within the window, of a vCPU and an operation that are,
// and no more than there is room for; what was understood and is encoded comes back the same.
#include <algorithm>
#include <cstring>

#include "daemon/reasons.h"
#include "daemon/trace_area.h"
#include "daemon/trace_codec.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"
#include "vmm/agent/trace.h"

namespace rehome::fuzz {
namespace {

enum Kind : uint8_t { kArea, kJournal, kKinds };

constexpr TraceWindow kWindow = {.begin_ns = 1'000'000, .end_ns = 9'000'000, .vcpu_count = 4};

void CheckSide(const TraceSide& side) {
  REHOME_PROMISE(side.calls.size() <= kMaxTraceCalls);
  REHOME_PROMISE(side.dropped <= 2 * REHOME_TRACE_CALLS);
  uint64_t before = kWindow.begin_ns;
  for (const TraceCall& call : side.calls) {
    REHOME_PROMISE(before <= call.begin_ns && call.begin_ns <= call.end_ns);
    REHOME_PROMISE(call.end_ns <= kWindow.end_ns);
    REHOME_PROMISE(!call.vcpu.has_value() || *call.vcpu < kWindow.vcpu_count);
    REHOME_PROMISE(call.operation >= 1 && call.operation <= REHOME_TRACE_LAST_OPERATION);
    before = call.begin_ns;
  }
}

void CheckRoundTrip(const MigrationTrace& trace) {
  const std::string bytes = EncodeTrace(trace);
  REHOME_PROMISE(bytes.size() <= kMaxTraceBytes);
  const absl::StatusOr<MigrationTrace> again = DecodeTrace(bytes);
  REHOME_PROMISE(again.ok() && *again == trace);
}

// A header that is right, unless the input says otherwise: most inputs would not get past it.
bool FeedArea(Input& in) {
  const bool raw_header = in.Take<uint8_t>() % 8 == 7;
  rehome_trace_header header = {};
  header.claimed = in.Take<uint16_t>();
  header.magic = REHOME_TRACE_MAGIC;
  header.version = REHOME_TRACE_VERSION;
  if (raw_header) header = in.Take<rehome_trace_header>();
  Bytes area;
  Append(area, header);
  AppendBytes(area, in.TakeBytes(REHOME_TRACE_SIZE - sizeof(header)));
  area.resize(REHOME_TRACE_SIZE);
  MigrationTrace trace;
  trace.source = ParseTraceArea(area, kWindow);
  CheckSide(trace.source);
  CheckRoundTrip(trace);
  return !trace.source.calls.empty();
}

bool FeedJournal(const Input& in) {
  const absl::StatusOr<MigrationTrace> trace = DecodeTrace(Input::Text(in.rest()));
  if (!trace.ok()) {
    REHOME_PROMISE(ReasonOf(trace.status()) == reason::kJournalCorrupt);
    return false;
  }
  REHOME_PROMISE(trace->steps.size() <= kMaxTraceSteps);
  REHOME_PROMISE(trace->source.calls.size() <= kMaxTraceCalls);
  CheckRoundTrip(*trace);
  return true;
}

Seed AreaSeed() {
  Seed seed{.name = "area", .bytes = {}};
  Append(seed.bytes, static_cast<uint8_t>(kArea));
  Append(seed.bytes, uint8_t{0});
  Append(seed.bytes, uint16_t{2});
  Append(seed.bytes, rehome_trace_call{.begin_ns = 1'100'000,
                                       .end_ns = 1'200'000,
                                       .operation = REHOME_TRACE_KVM_RUN,
                                       .vcpu = 3,
                                       .thread = 12,
                                       .complete = 1});
  Append(seed.bytes, rehome_trace_call{.begin_ns = 900'000,
                                       .end_ns = 1'300'000,
                                       .operation = REHOME_TRACE_KVM_GET_CLOCK,
                                       .vcpu = REHOME_TRACE_NO_VCPU,
                                       .thread = 13,
                                       .complete = 1});
  return seed;
}

Seed JournalSeed() {
  MigrationTrace trace;
  trace.steps = {{Step::kPreflight, 5'000, 6'000}, {Step::kFencing, 6'000, 9'000}};
  trace.source.calls = {
      {.operation = 18, .vcpu = 1, .thread = 4, .begin_ns = 7'000, .end_ns = 17'000}};
  trace.target.dropped = 3;
  Seed seed{.name = "journal", .bytes = {}};
  Append(seed.bytes, static_cast<uint8_t>(kJournal));
  AppendText(seed.bytes, EncodeTrace(trace));
  return seed;
}

}  // namespace

// A kind, then an area (header's count first) or a trace of the journal.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  return in.Take<uint8_t>() % kKinds == kArea ? FeedArea(in) : FeedJournal(in);
}

std::vector<Seed> Seeds() { return {AreaSeed(), JournalSeed()}; }

}  // namespace rehome::fuzz
