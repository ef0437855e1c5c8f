// SPDX-License-Identifier: Apache-2.0
#include "client/trace/timeline.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "client/cli/format.h"

namespace rehome {
namespace {

using Trace = v1::MigrationTrace;

// Shown of either side of the blackout, as a part of it; what is there matters less.
constexpr int64_t kMarginDivisor = 6;
// ns, at least: a blackout of some us is still to be seen beside what is around it.
constexpr int64_t kMinMarginNs = 20'000;

// Where time is 0, and what is shown.
struct Range {
  int64_t zero = 0;
  int64_t begin = 0, end = 0;  // absolute
  bool is_blackout = false;
};

Range Around(int64_t begin, int64_t end, bool is_blackout) {
  const int64_t margin = std::max((end - begin) / kMarginDivisor, kMinMarginNs);
  return {.zero = begin, .begin = begin - margin, .end = end + margin, .is_blackout = is_blackout};
}

// Of a migration that was not handed over: from the first to the last thing that the VMMs did.
Range RangeOfAll(const Trace& trace) {
  std::optional<int64_t> begin, end;
  const auto include = [&begin, &end](int64_t from, int64_t to) {
    begin = std::min(begin.value_or(from), from);
    end = std::max(end.value_or(to), to);
  };
  for (const Trace::Side* side : {&trace.source(), &trace.target()}) {
    for (const Trace::Call& call : side->calls()) {
      include(call.begin_monotonic_ns(), call.end_monotonic_ns());
    }
  }
  for (const Trace::Span& phase : trace.phases()) {
    include(phase.begin_monotonic_ns(), phase.end_monotonic_ns());
  }
  if (!begin.has_value()) {
    for (const Trace::Span& step : trace.steps()) {
      include(step.begin_monotonic_ns(), step.end_monotonic_ns());
    }
  }
  return Around(begin.value_or(0), end.value_or(0), false);
}

Range RangeOf(const v1::Migration& migration, const Trace& trace) {
  const bool whole = migration.has_blackout() && trace.phases_size() == 7;
  if (!whole) return RangeOfAll(trace);
  return Around(trace.phases(0).begin_monotonic_ns(), trace.phases(6).end_monotonic_ns(), true);
}

// Cut to the range; nothing of what lies outside.
class LaneBuilder {
 public:
  LaneBuilder(std::string name, std::string group, const Range& range) : range_(range) {
    lane_.name = std::move(name);
    lane_.group = std::move(group);
  }
  LaneBuilder& Add(BarKind kind, std::string label, int64_t begin, int64_t end) {
    if (end < range_.begin || begin > range_.end) return *this;
    lane_.bars.push_back({.kind = kind,
                          .label = std::move(label),
                          .begin_ns = std::max(begin, range_.begin) - range_.zero,
                          .end_ns = std::min(end, range_.end) - range_.zero,
                          .took_ns = end - begin});
    return *this;
  }
  LaneBuilder& Mark(std::string label, int64_t at) {
    if (at < range_.begin || at > range_.end) return *this;
    lane_.marks.push_back({.label = std::move(label), .at_ns = at - range_.zero});
    return *this;
  }
  Lane Done() { return std::move(lane_); }

 private:
  const Range& range_;
  Lane lane_;
};

Group GuestGroup(const Trace& trace, const Range& range) {
  const int64_t end = range.end - range.begin + range.zero;
  LaneBuilder guest("guest", "guest", range);
  guest.Add(BarKind::kGuestRuns, "runs on the source", range.begin, range.zero);
  const int64_t resumed = trace.phases(6).end_monotonic_ns();
  guest.Add(BarKind::kPaused, "paused: " + FormatNanos(resumed - range.zero, "µ"), range.zero,
            resumed);
  guest.Add(BarKind::kGuestRuns, "runs on the target", resumed, end);
  LaneBuilder phases("phases", "guest", range);
  for (const Trace::Span& phase : trace.phases()) {
    if (phase.end_monotonic_ns() == phase.begin_monotonic_ns()) continue;
    phases.Add(BarKind::kPhase, phase.name(), phase.begin_monotonic_ns(), phase.end_monotonic_ns());
  }
  return {.name = "guest", .title = "guest", .lanes = {guest.Done(), phases.Done()}};
}

Group DaemonGroup(const v1::Migration& migration, const Trace& trace, const Range& range) {
  LaneBuilder lane("steps", "rehomed", range);
  for (const Trace::Span& step : trace.steps()) {
    lane.Add(BarKind::kStep, step.name(), step.begin_monotonic_ns(), step.end_monotonic_ns());
  }
  const v1::FenceProof& proof = migration.fence_proof();
  lane.Mark("SIGKILL to the source", proof.kill_sent_monotonic_ns());
  lane.Mark("source stopped", proof.tasks_stopped_monotonic_ns());
  lane.Mark("source exited", proof.exited_monotonic_ns());
  return {.name = "rehomed", .title = "rehomed", .lanes = {lane.Done()}};
}

// One lane for each thread; that of a vCPU has its name, and vCPUs come first.
Group SideGroup(const std::string& name, const Trace::Side& side, const Range& range) {
  std::map<int32_t, int32_t> vcpu_of;
  for (const Trace::Call& call : side.calls()) {
    if (call.has_vcpu()) vcpu_of.emplace(call.thread(), call.vcpu());
  }
  std::map<std::pair<int64_t, int32_t>, LaneBuilder> lanes;
  for (const Trace::Call& call : side.calls()) {
    const auto vcpu = vcpu_of.find(call.thread());
    const bool known = vcpu != vcpu_of.end();
    const std::string lane_name =
        known ? "vCPU " + std::to_string(vcpu->second) : "thread " + std::to_string(call.thread());
    const std::pair<int64_t, int32_t> key = {known ? vcpu->second : INT64_MAX, call.thread()};
    lanes.try_emplace(key, lane_name, name, range)
        .first->second.Add(KindOf(call.operation()), ShortOperation(call.operation()),
                           call.begin_monotonic_ns(), call.end_monotonic_ns());
  }
  Group group = {
      .name = name,
      .title = name + ": " + side.process().vmm() + ", pid " + std::to_string(side.process().pid()),
      .lanes = {}};
  for (auto& [key, lane] : lanes) group.lanes.push_back(lane.Done());
  if (group.lanes.empty()) group.lanes.push_back({.name = "no calls", .group = name});
  return group;
}

std::vector<std::string> FactsOf(const v1::Migration& migration, const Trace& trace) {
  std::vector<std::string> facts;
  const std::string strategy = v1::Migration::Strategy_Name(migration.strategy());
  const std::string policy = v1::Migration::FencePolicy_Name(migration.fence_policy());
  facts.push_back(Count(migration.vcpu_count(), "vCPU") + ", " +
                  FormatBytes(migration.memory_bytes()) + " of memory, strategy " + strategy +
                  ", fence " + policy + ", " + FormatTime(migration.create_time()));
  facts.push_back("Time runs from the order to pause. ioctls from " +
                  FormatNanos(trace.threshold_ns(), "µ") +
                  " on; of KVM_RUN the first of each vCPU.");
  const int32_t dropped = trace.source().dropped_calls() + trace.target().dropped_calls();
  if (dropped != 0) facts.push_back(Count(dropped, "call") + " had no room or could not be true.");
  return facts;
}

}  // namespace

std::string ShortOperation(const std::string& operation) {
  const std::string prefix = "KVM_";
  return operation.rfind(prefix, 0) == 0 ? operation.substr(prefix.size()) : operation;
}

BarKind KindOf(const std::string& operation) {
  const std::string name = ShortOperation(operation);
  if (name == "RUN") return BarKind::kRun;
  if (name.rfind("GET_", 0) == 0) return BarKind::kRead;
  if (name.rfind("SET_", 0) == 0) return BarKind::kWrite;
  return BarKind::kOther;
}

Timeline MakeTimeline(const v1::Migration& migration, const v1::MigrationTrace& trace) {
  const Range range = RangeOf(migration, trace);
  Timeline timeline;
  const std::string vm = migration.vm().substr(migration.vm().find('/') + 1);
  timeline.title = migration.name().substr(migration.name().find('/') + 1) + ", VM " + vm + ": " +
                   v1::Migration::State_Name(migration.state());
  timeline.facts = FactsOf(migration, trace);
  timeline.blackout_ns = range.is_blackout ? migration.blackout().total_ns() : 0;
  timeline.begin_ns = range.begin - range.zero;
  timeline.end_ns = range.end - range.zero;
  if (range.is_blackout) timeline.groups.push_back(GuestGroup(trace, range));
  timeline.groups.push_back(SideGroup("source", trace.source(), range));
  timeline.groups.push_back(SideGroup("target", trace.target(), range));
  timeline.groups.push_back(DaemonGroup(migration, trace, range));
  return timeline;
}

}  // namespace rehome
