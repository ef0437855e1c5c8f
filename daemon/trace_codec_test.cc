// SPDX-License-Identifier: Apache-2.0
#include "daemon/trace_codec.h"

#include <gtest/gtest.h>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

MigrationTrace SampleTrace() {
  MigrationTrace trace;
  trace.steps = {{Step::kPreflight, 1'000, 2'000}, {Step::kHandingOver, 2'500, 900'000}};
  trace.source.calls = {
      {.operation = 1, .vcpu = 0, .thread = 77, .begin_ns = 10'000, .end_ns = 30'000},
      {.operation = 18, .vcpu = 3, .thread = 80, .begin_ns = 10'000, .end_ns = 50'000},
      {.operation = 10, .vcpu = {}, .thread = 77, .begin_ns = 60'000, .end_ns = 90'000}};
  trace.source.dropped = 4;
  trace.target.calls = {
      {.operation = 55, .vcpu = 63, .thread = 9, .begin_ns = 95'000, .end_ns = 95'000}};
  return trace;
}

// As large as one can be, at times of a host that has run for years.
MigrationTrace LargestTrace() {
  MigrationTrace trace;
  uint64_t now = uint64_t{1} << 58;
  for (size_t i = 0; i < kMaxTraceSteps; ++i) {
    trace.steps.push_back({Step::kUnresolved, now, now + (uint64_t{1} << 42)});
    now += uint64_t{1} << 42;
  }
  for (TraceSide* side : {&trace.source, &trace.target}) {
    for (uint32_t i = 0; i < kMaxTraceCalls; ++i) {
      side->calls.push_back({.operation = REHOME_TRACE_LAST_OPERATION,
                             .vcpu = 63,
                             .thread = UINT32_MAX - i,
                             .begin_ns = now + i * (uint64_t{1} << 42),
                             .end_ns = now + (i + 1) * (uint64_t{1} << 42)});
    }
    side->dropped = UINT32_MAX;
  }
  return trace;
}

TEST(TraceCodec, ComesBackAsItWas) {
  for (const MigrationTrace& trace : {SampleTrace(), LargestTrace(), MigrationTrace{}}) {
    const std::string bytes = EncodeTrace(trace);
    EXPECT_LE(bytes.size(), kMaxTraceBytes);
    const absl::StatusOr<MigrationTrace> back = DecodeTrace(bytes);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, trace);
  }
}

// docs/journal.md says this number.
TEST(TraceCodec, IsSmallAsARule) {
  MigrationTrace trace = SampleTrace();
  for (int i = 0; i < 7; ++i) trace.steps.push_back(trace.steps.back());
  for (TraceSide* side : {&trace.source, &trace.target}) {
    side->calls.clear();
    for (uint64_t i = 0; i < 15; ++i) {
      const uint64_t begin = 1'000'000 + i * 30'000;
      side->calls.push_back({.operation = 18,
                             .vcpu = i % 2,
                             .thread = static_cast<uint32_t>(4'000'000 + i % 2),
                             .begin_ns = begin,
                             .end_ns = begin + 25'000});
    }
  }
  EXPECT_LE(EncodeTrace(trace).size(), 450u);
}

TEST(TraceCodec, RefusesDamage) {
  const std::string good = EncodeTrace(SampleTrace());
  EXPECT_FALSE(DecodeTrace(std::string(kMaxTraceBytes + 1, '\0')).ok());
  size_t refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string damaged = good;
    damaged[i] = static_cast<char>(damaged[i] ^ 0xff);
    const absl::StatusOr<MigrationTrace> trace = DecodeTrace(damaged);
    if (trace.ok()) continue;
    ++refused;
    EXPECT_EQ(ReasonOf(trace.status()), reason::kJournalCorrupt);
  }
  EXPECT_GT(refused, good.size() / 2);
  for (size_t cut = 1; cut < good.size(); ++cut) DecodeTrace(good.substr(0, cut)).IgnoreError();
}

}  // namespace
}  // namespace rehome
