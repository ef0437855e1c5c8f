// SPDX-License-Identifier: Apache-2.0
#include "daemon/trace_area.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "vmm/agent/handover_block.h"
#include "vmm/agent/trace.h"

namespace rehome {
namespace {

constexpr TraceWindow kWindow = {.begin_ns = 100'000, .end_ns = 900'000, .vcpu_count = 2};

// An area with `calls` in it, as a VMM that follows the rules leaves it.
class AreaBytes {
 public:
  AreaBytes() {
    header_.magic = REHOME_TRACE_MAGIC;
    header_.version = REHOME_TRACE_VERSION;
    header_.capacity = REHOME_TRACE_CALLS;
  }
  AreaBytes& Add(rehome_trace_call call) {
    call.complete = 1;
    return AddRaw(call);
  }
  AreaBytes& AddRaw(const rehome_trace_call& call) {
    calls_.push_back(call);
    ++header_.claimed;
    return *this;
  }
  rehome_trace_header& header() { return header_; }
  TraceSide Parse() const {
    std::vector<std::byte> bytes(REHOME_TRACE_SIZE);
    std::memcpy(bytes.data(), &header_, sizeof(header_));
    std::memcpy(bytes.data() + sizeof(header_), calls_.data(),
                calls_.size() * sizeof(rehome_trace_call));
    return ParseTraceArea(bytes, kWindow);
  }

 private:
  rehome_trace_header header_ = {};
  std::vector<rehome_trace_call> calls_;
};

rehome_trace_call Call(uint64_t begin, uint64_t end, uint32_t vcpu = 0,
                       uint32_t operation = REHOME_TRACE_KVM_GET_MSRS) {
  return {.begin_ns = begin,
          .end_ns = end,
          .operation = operation,
          .vcpu = vcpu,
          .thread = 7,
          .complete = 0};
}

TEST(TraceArea, GivesCallsInTheOrderOfTheirBegin) {
  const TraceSide side = AreaBytes()
                             .Add(Call(300'000, 400'000, 1))
                             .Add(Call(200'000, 210'000, REHOME_TRACE_NO_VCPU))
                             .Parse();
  ASSERT_EQ(side.calls.size(), 2u);
  EXPECT_EQ(side.calls[0], (TraceCall{.operation = REHOME_TRACE_KVM_GET_MSRS,
                                      .vcpu = std::nullopt,
                                      .thread = 7,
                                      .begin_ns = 200'000,
                                      .end_ns = 210'000}));
  EXPECT_EQ(side.calls[1].vcpu, 1u);
  EXPECT_EQ(side.dropped, 0u);
}

TEST(TraceArea, CutsWhatBeganBefore) {
  const TraceSide side = AreaBytes().Add(Call(5, 200'000, 0, REHOME_TRACE_KVM_RUN)).Parse();
  ASSERT_EQ(side.calls.size(), 1u);
  EXPECT_EQ(side.calls[0].begin_ns, kWindow.begin_ns);
}

TEST(TraceArea, DropsAndCountsWhatCannotBe) {
  const std::vector<rehome_trace_call> lies = {
      Call(300'000, 200'000),                  // ends before it begins
      Call(200'000, 209'999),                  // too short to have been recorded
      Call(10'000, 99'999),                    // before the window
      Call(800'000, 900'001),                  // after it
      Call(UINT64_MAX - 5, UINT64_MAX),        //
      Call(UINT64_MAX, 20'000),                //
      Call(200'000, 300'000, 2),               // no such vCPU
      Call(200'000, 300'000, UINT32_MAX - 1),  //
      Call(200'000, 300'000, 0, 0),            // no such operation
      Call(200'000, 300'000, 0, REHOME_TRACE_LAST_OPERATION + 1),
  };
  AreaBytes area;
  for (const rehome_trace_call& lie : lies) area.Add(lie);
  area.Add(Call(200'000, 300'000));
  const TraceSide side = area.Parse();
  EXPECT_EQ(side.calls.size(), 1u);
  EXPECT_EQ(side.dropped, lies.size());
}

TEST(TraceArea, LeavesOutWhatWasNotFinished) {
  const TraceSide side = AreaBytes().AddRaw(Call(200'000, 300'000)).Parse();
  EXPECT_TRUE(side.calls.empty());
  EXPECT_EQ(side.dropped, 0u);
}

TEST(TraceArea, BelievesNoCount) {
  AreaBytes area;
  area.Add(Call(200'000, 300'000));
  area.header().claimed = UINT32_MAX;
  const TraceSide side = area.Parse();
  EXPECT_EQ(side.calls.size(), 1u);
  EXPECT_EQ(side.dropped, REHOME_TRACE_CALLS);
}

TEST(TraceArea, HasNothingToSayOfAnotherHeaderOrSize) {
  AreaBytes area;
  area.Add(Call(200'000, 300'000));
  area.header().version = 2;
  EXPECT_EQ(area.Parse(), TraceSide{});
  area.header().version = 1;
  area.header().magic += 1;
  EXPECT_EQ(area.Parse(), TraceSide{});
  EXPECT_EQ(ParseTraceArea({}, kWindow), TraceSide{});
  EXPECT_EQ(ParseTraceArea(std::vector<std::byte>(REHOME_TRACE_SIZE - 1), kWindow), TraceSide{});
}

// The whole way, with the library that a VMM uses.
TEST(TraceArea, ReadsWhatAVmmHasRecorded) {
  const std::unique_ptr<TraceArea> area = TraceArea::Create();
  ASSERT_NE(area, nullptr);
  rehome_trace* const trace = rehome_trace_new();
  ASSERT_EQ(rehome_trace_open(trace, area->fd().raw()), 0);
  rehome_trace_start(trace);
  const uint64_t begin = rehome_monotonic_ns();
  uint64_t end = begin;
  while (end - begin < REHOME_TRACE_THRESHOLD_NS) end = rehome_monotonic_ns();
  rehome_trace_record(trace, REHOME_TRACE_KVM_SET_XSAVE, 1, begin, end);
  rehome_trace_record(trace, REHOME_TRACE_KVM_SET_XSAVE, 1, 1, end);  // cut to Create()
  const TraceSide side = area->Read(2);
  rehome_trace_free(trace);
  ASSERT_EQ(side.calls.size(), 2u);
  EXPECT_LE(side.calls[0].begin_ns, begin);
  EXPECT_GT(side.calls[0].begin_ns, 1u);
  EXPECT_EQ(side.calls[1].begin_ns, begin);
  EXPECT_EQ(side.calls[1].end_ns, end);
  EXPECT_STREQ(TraceOperationName(side.calls[1].operation), "KVM_SET_XSAVE");
  EXPECT_STREQ(TraceOperationName(REHOME_TRACE_LINK_GUEST_MEMFD), "KVM_LINK_GUEST_MEMFD");
  EXPECT_STREQ(TraceOperationName(9999), "OTHER");
}

}  // namespace
}  // namespace rehome
