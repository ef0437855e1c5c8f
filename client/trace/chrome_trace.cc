// SPDX-License-Identifier: Apache-2.0
#include "client/trace/chrome_trace.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

namespace rehome {
namespace {

using Json = nlohmann::ordered_json;
using Trace = v1::MigrationTrace;

// Threads of rehomed that are none: rows of the viewer.
constexpr int32_t kStepsRow = 1;
constexpr int32_t kBlackoutRow = 2;
// rehomed where the record does not name it. No VMM is process 1.
constexpr int32_t kUnknownDaemon = 1;

struct Event {
  std::string name;
  const char* category = "";
  int32_t process = 0;
  int32_t thread = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;  // begin_ns: an instant
  Json details = Json::object();
};

int32_t DaemonOf(const v1::Migration& migration) {
  const int32_t pid = migration.fence_proof().exit_observer().process().pid();
  return pid > 0 ? pid : kUnknownDaemon;
}

Json NameOf(const char* what, int32_t process, int32_t thread, const std::string& name) {
  return {
      {"name", what}, {"ph", "M"}, {"pid", process}, {"tid", thread}, {"args", {{"name", name}}}};
}

void AddSide(const char* role, const Trace::Side& side, Json* metadata,
             std::vector<Event>* events) {
  const int32_t process = side.process().pid();
  metadata->push_back(
      NameOf("process_name", process, process, std::string(role) + " " + side.process().vmm()));
  std::map<int32_t, int32_t> vcpus;
  for (const Trace::Call& call : side.calls()) {
    if (call.has_vcpu()) vcpus.emplace(call.thread(), call.vcpu());
    Event event = {.name = call.operation(),
                   .category = "ioctl",
                   .process = process,
                   .thread = call.thread(),
                   .begin_ns = call.begin_monotonic_ns(),
                   .end_ns = call.end_monotonic_ns()};
    if (call.has_vcpu()) event.details["vcpu"] = call.vcpu();
    events->push_back(std::move(event));
  }
  for (const auto& [thread, vcpu] : vcpus) {
    metadata->push_back(NameOf("thread_name", process, thread, "vCPU " + std::to_string(vcpu)));
  }
}

void AddDaemon(const v1::Migration& migration, const Trace& trace, Json* metadata,
               std::vector<Event>* events) {
  const int32_t process = DaemonOf(migration);
  metadata->push_back(NameOf("process_name", process, process, "rehomed"));
  metadata->push_back(NameOf("thread_name", process, kStepsRow, "steps"));
  metadata->push_back(NameOf("thread_name", process, kBlackoutRow, "blackout"));
  const auto add = [process, events](const Trace::Span& span, const char* category, int32_t row) {
    events->push_back({.name = span.name(),
                       .category = category,
                       .process = process,
                       .thread = row,
                       .begin_ns = span.begin_monotonic_ns(),
                       .end_ns = span.end_monotonic_ns()});
  };
  for (const Trace::Span& step : trace.steps()) add(step, "step", kStepsRow);
  if (migration.has_blackout() && trace.phases_size() != 0) {
    Trace::Span blackout = trace.phases(0);
    blackout.set_name("blackout");
    blackout.set_end_monotonic_ns(trace.phases().rbegin()->end_monotonic_ns());
    add(blackout, "blackout", kBlackoutRow);
  }
  for (const Trace::Span& phase : trace.phases()) add(phase, "phase", kBlackoutRow);
  const v1::FenceProof& proof = migration.fence_proof();
  const std::pair<const char*, int64_t> moments[] = {
      {"SIGKILL to the source", proof.kill_sent_monotonic_ns()},
      {"source stopped", proof.tasks_stopped_monotonic_ns()},
      {"source exited", proof.exited_monotonic_ns()}};
  for (const auto& [name, at] : moments) {
    if (at == 0) continue;
    events->push_back({.name = name,
                       .category = "fence",
                       .process = process,
                       .thread = kStepsRow,
                       .begin_ns = at,
                       .end_ns = at});
  }
}

Json ToJson(const Event& event, int64_t base_ns) {
  const auto micros = [](int64_t ns) { return static_cast<double>(ns) / 1000; };
  const bool instant = event.begin_ns == event.end_ns;
  Json json = {{"name", event.name},        {"cat", event.category},
               {"ph", instant ? "i" : "X"}, {"pid", event.process},
               {"tid", event.thread},       {"ts", micros(event.begin_ns - base_ns)}};
  if (instant) {
    json["s"] = "p";  // across the process
  } else {
    json["dur"] = micros(event.end_ns - event.begin_ns);
  }
  if (!event.details.empty()) json["args"] = event.details;
  return json;
}

}  // namespace

std::string ChromeTrace(const v1::Migration& migration, const v1::MigrationTrace& trace) {
  Json all = Json::array();
  std::vector<Event> events;
  AddSide("source", trace.source(), &all, &events);
  AddSide("target", trace.target(), &all, &events);
  AddDaemon(migration, trace, &all, &events);
  // What contains another comes first.
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
  });
  const int64_t base_ns = events.empty() ? 0 : events.front().begin_ns;
  for (const Event& event : events) all.push_back(ToJson(event, base_ns));
  const Json file = {{"displayTimeUnit", "ns"},
                     {"otherData",
                      {{"migration", migration.name()},
                       {"vm", migration.vm()},
                       {"state", v1::Migration::State_Name(migration.state())},
                       {"boot_id", migration.boot_id()},
                       {"base_monotonic_ns", base_ns},
                       {"threshold_ns", trace.threshold_ns()},
                       {"dropped_calls_source", trace.source().dropped_calls()},
                       {"dropped_calls_target", trace.target().dropped_calls()}}},
                     {"traceEvents", std::move(all)}};
  // Bytes that are not UTF-8 must not throw: they become U+FFFD.
  return file.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace rehome
