// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "client/testing/sample_records.h"
#include "client/trace/chrome_trace.h"
#include "client/trace/label_rows.h"
#include "client/trace/timeline.h"
#include "client/trace/timeline_html.h"
#include "client/trace/timeline_svg.h"
#include "nlohmann/json.hpp"

namespace rehome {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kPause = 5'000'000'000;  // as in SampleHistory()

void AddCall(v1::MigrationTrace::Side* side, const std::string& operation, int vcpu, int thread,
             int64_t begin_us, int64_t end_us) {
  v1::MigrationTrace::Call* const call = side->add_calls();
  call->set_operation(operation);
  if (vcpu >= 0) call->set_vcpu(vcpu);
  call->set_thread(thread);
  call->set_begin_monotonic_ns(kPause + begin_us * 1000);
  call->set_end_monotonic_ns(kPause + end_us * 1000);
}

void AddSpan(v1::MigrationTrace::Span* span, const std::string& name, int64_t begin_us,
             int64_t end_us) {
  span->set_name(name);
  span->set_begin_monotonic_ns(kPause + begin_us * 1000);
  span->set_end_monotonic_ns(kPause + end_us * 1000);
}

v1::MigrationTrace SampleTrace() {
  v1::MigrationTrace trace;
  trace.set_name("migrations/m-0123456789abcdef/trace");
  trace.set_threshold_ns(10'000);
  const std::vector<std::pair<std::string, int64_t>> phases = {
      {"stop_vcpus", 41},     {"save_state", 129}, {"claim", 136}, {"move", 136},
      {"restore_state", 256}, {"fence", 298},      {"resume", 312}};
  int64_t begin = 0;
  for (const auto& [name, end] : phases) {
    AddSpan(trace.add_phases(), name, begin, end);
    begin = end;
  }
  AddSpan(trace.add_steps(), "LAUNCHING", -90'000, -40'000);
  AddSpan(trace.add_steps(), "HANDING_OVER", -60, 330);
  trace.mutable_source()->mutable_process()->set_pid(1234);
  trace.mutable_source()->mutable_process()->set_vmm("rehome-vmm 1.0");
  trace.mutable_target()->mutable_process()->set_pid(4321);
  trace.mutable_target()->mutable_process()->set_vmm("rehome-vmm 2.0");
  AddCall(trace.mutable_source(), "KVM_RUN", 0, 77, -5'000, 30);
  AddCall(trace.mutable_source(), "KVM_GET_XSAVE2", 0, 77, 50, 75);
  AddCall(trace.mutable_source(), "KVM_GET_MSRS", 1, 78, 50, 80);
  AddCall(trace.mutable_source(), "KVM_GET_CLOCK", -1, 78, 90, 101);
  AddCall(trace.mutable_target(), "KVM_SET_MSRS", 0, 9, 140, 200);
  AddCall(trace.mutable_target(), "KVM_SET_IRQCHIP", -1, 12, 141, 160);
  return trace;
}

v1::Migration Sample() {
  v1::Migration migration = testing::SampleHistory().back();
  migration.mutable_fence_proof()->set_exited_monotonic_ns(kPause + 3'100'000);
  return migration;
}

const Lane* FindLane(const Timeline& timeline, const std::string& group, const std::string& name) {
  for (const Group& candidate : timeline.groups) {
    for (const Lane& lane : candidate.lanes) {
      if (lane.group == group && lane.name == name) return &lane;
    }
  }
  return nullptr;
}

TEST(Timeline, HasALaneForEachThread) {
  const Timeline timeline = MakeTimeline(Sample(), SampleTrace());
  EXPECT_EQ(timeline.blackout_ns, 312'400);
  for (const auto& [group, name, bars] :
       std::vector<std::tuple<std::string, std::string, size_t>>{{"guest", "guest", 3},
                                                                 {"guest", "phases", 6},
                                                                 {"source", "vCPU 0", 2},
                                                                 {"source", "vCPU 1", 2},
                                                                 {"target", "vCPU 0", 1},
                                                                 {"target", "thread 12", 1},
                                                                 {"rehomed", "steps", 1}}) {
    const Lane* const lane = FindLane(timeline, group, name);
    ASSERT_NE(lane, nullptr) << group << " " << name;
    EXPECT_EQ(lane->bars.size(), bars) << group << " " << name;
  }
}

TEST(Timeline, ShowsTheBlackoutInTheMiddleAndCutsTheRest) {
  const Timeline timeline = MakeTimeline(Sample(), SampleTrace());
  EXPECT_EQ(-timeline.begin_ns, timeline.end_ns - 312'000);
  const Lane* const lane = FindLane(timeline, "source", "vCPU 0");
  ASSERT_NE(lane, nullptr);
  EXPECT_EQ(lane->bars[0].kind, BarKind::kRun);
  EXPECT_EQ(lane->bars[0].begin_ns, timeline.begin_ns);
  EXPECT_EQ(lane->bars[0].end_ns, 30'000);
  EXPECT_EQ(lane->bars[0].took_ns, 5'030'000);
  EXPECT_EQ(lane->bars[1].kind, BarKind::kRead);
  EXPECT_EQ(lane->bars[1].label, "GET_XSAVE2");
}

TEST(Timeline, OfAMigrationThatWasNotHandedOverShowsWhatThereIs) {
  v1::MigrationTrace trace = SampleTrace();
  trace.mutable_phases()->DeleteSubrange(2, 5);
  const Timeline timeline = MakeTimeline(testing::RolledBackMigration(), trace);
  EXPECT_EQ(timeline.blackout_ns, 0);
  EXPECT_NE(FindLane(timeline, "source", "vCPU 0"), nullptr);
  EXPECT_THAT(TimelineSvg(timeline), HasSubstr("data-lane=\"vCPU 0\""));
  EXPECT_THAT(TimelineHtml(MakeTimeline(testing::CancelledMigration(), {})), HasSubstr("no calls"));
}

TEST(LabelRows, NoTwoOverlapAndNoLeaderCrossesAText) {
  std::vector<LabelBox> labels;
  for (int i = 0; i < 60; ++i) {
    labels.push_back({.left = i * i * 0.4, .width = 60.0 + (i * 37) % 90});
  }
  const size_t rows = AssignRows(labels);
  EXPECT_LE(rows, kMaxLabelRows);
  for (const LabelBox& a : labels) {
    if (a.row < 0) continue;
    EXPECT_LT(static_cast<size_t>(a.row), rows);
    for (const LabelBox& b : labels) {
      if (&a == &b || b.row < 0 || a.left > b.left) continue;
      // b begins to the right of a: beside it in the same row, and in no row above whose text a's
      // leader would have to cross.
      if (b.row >= a.row) {
        EXPECT_LE(a.left + a.width, b.left);
      }
    }
  }
}

TEST(TimelineHtml, LoadsNothingAndRunsNothing) {
  const std::string html = TimelineHtml(MakeTimeline(Sample(), SampleTrace()));
  for (const char* foreign : {"<script", " src=", " href=", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(foreign)));
  }
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(html, HasSubstr("GET_XSAVE2</td>"));
  EXPECT_THAT(html, HasSubstr("blackout 312.4 µs"));
}

TEST(TimelineHtml, NamesCannotBecomeMarkup) {
  v1::MigrationTrace trace = SampleTrace();
  trace.mutable_source()->mutable_process()->set_vmm("<img src=x onerror=\"1\">\x01&");
  trace.mutable_source()->mutable_calls(1)->set_operation("\"><script>");
  const std::string html = TimelineHtml(MakeTimeline(Sample(), trace));
  EXPECT_THAT(html, Not(HasSubstr("<img")));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("&lt;img src=x onerror=&quot;1&quot;&gt; &amp;"));
}

TEST(ChromeTrace, HasThreeProcessesAndEveryCall) {
  const nlohmann::json file = nlohmann::json::parse(ChromeTrace(Sample(), SampleTrace()));
  std::vector<int> processes;
  int calls = 0;
  double before = 0;
  for (const auto& event : file.at("traceEvents")) {
    if (event.at("ph") == "M") {
      if (event.at("name") == "process_name") processes.push_back(event.at("pid"));
      continue;
    }
    EXPECT_GE(event.at("ts").get<double>(), before);
    before = event.at("ts");
    if (event.at("cat") != "ioctl") continue;
    ++calls;
    if (event.at("name") != "KVM_GET_XSAVE2") continue;
    EXPECT_DOUBLE_EQ(event.at("ts").get<double>(), 90'050);
    EXPECT_DOUBLE_EQ(event.at("dur").get<double>(), 25);
    EXPECT_EQ(event.at("args").at("vcpu"), 0);
    EXPECT_EQ(event.at("tid"), 77);
  }
  EXPECT_EQ(processes, (std::vector<int>{1234, 4321, 99}));
  EXPECT_EQ(calls, 6);
}

TEST(ChromeTrace, OfNothingIsAFileAllTheSame) {
  const nlohmann::json file = nlohmann::json::parse(ChromeTrace({}, {}));
  EXPECT_TRUE(file.at("traceEvents").is_array());
}

}  // namespace
}  // namespace rehome
