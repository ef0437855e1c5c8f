// SPDX-License-Identifier: Apache-2.0
//
// The two kinds of progress without a thread: lines and JSON.
#include "client/cli/fleet_progress.h"

#include <mutex>
#include <set>
#include <utility>

#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/steps.h"
#include "nlohmann/json.hpp"

namespace rehome {
namespace {

// Keeps the order in which fields are written.
using Json = nlohmann::ordered_json;
using Kind = FleetResult::Kind;
using Plan = FleetVm::Plan;

class PlainFleetProgress final : public FleetProgress {
 public:
  explicit PlainFleetProgress(const Console& console) : console_(console) {}

  void Planned(const FleetPlan& plan, const FleetOptions& options) override {
    Write(FleetPlanText(plan, options));
  }
  void Started(const FleetResult& /*vm*/) override {}
  void Updated(const FleetResult& /*vm*/) override {}
  void Finished(const FleetResult& vm) override { Write(FleetResultText(vm, console_)); }
  void Note(const std::string& text) override { Write(Printable(text)); }
  void Stopping() override {
    Write("starting no more; waiting for those under way (Ctrl-C again leaves them)");
  }
  void Finish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
  }
  // Starts are not shown, and the summary lists what is under way.
  void EndAll(const std::vector<FleetResult>& /*results*/) override {}

 private:
  void Write(const std::string& line) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) console_.err << line << std::endl;
  }

  const Console console_;
  std::mutex mutex_;
  bool finished_ = false;  // guarded by mutex_
};

const char* PlanName(Plan plan) {
  switch (plan) {
    case Plan::kMove:
      return "MOVE";
    case Plan::kJoin:
      return "JOIN";
    case Plan::kAlreadyThere:
      return "ALREADY_THERE";
    case Plan::kUnresolved:
      return "UNRESOLVED";
  }
  return "";
}

const char* ResultName(Kind kind) {
  switch (kind) {
    case Kind::kNotStarted:
      return "NOT_STARTED";
    case Kind::kUnderWay:
      return "UNDER_WAY";
    case Kind::kMoved:
      return "MOVED";
    case Kind::kAlreadyThere:
      return "ALREADY_THERE";
    case Kind::kMovable:
      return "MOVABLE";
    case Kind::kFailed:
      return "FAILED";
  }
  return "";
}

// Text of our own making is JSON.
Json Parsed(const std::string& text) { return Json::parse(text, nullptr, false); }

class JsonFleetProgress final : public FleetProgress {
 public:
  explicit JsonFleetProgress(const Console& console) : console_(console) {}

  void Planned(const FleetPlan& plan, const FleetOptions& /*options*/) override {
    Json vms = Json::array();
    for (const FleetVm& vm : plan.vms) {
      Json one = {{"vm", IdOf(vm.vm)}, {"plan", PlanName(vm.plan)}};
      if (!vm.migration.name().empty()) one["migration"] = IdOf(vm.migration.name());
      vms.push_back(std::move(one));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    Write({{"event", "planned"}, {"profile", plan.profile}, {"vms", std::move(vms)}});
  }
  void Started(const FleetResult& vm) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    started_.insert(vm.vm);
    Write({{"event", "started"},
           {"vm", IdOf(vm.vm)},
           {"migration", IdOf(vm.migration.name())},
           {"joined", vm.joined}});
  }
  void Updated(const FleetResult& /*vm*/) override {}
  void Finished(const FleetResult& vm) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) WriteEnd(vm);
  }
  void Note(const std::string& text) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) Write({{"event", "note"}, {"text", text}});
  }
  void Stopping() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) Write({{"event", "stopping"}});
  }
  void Finish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
  }
  void EndAll(const std::vector<FleetResult>& results) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const FleetResult& vm : results) {
      if (started_.contains(vm.vm)) WriteEnd(vm);
    }
  }

 private:
  // These REQUIRE mutex_.
  void WriteEnd(const FleetResult& vm) {
    started_.erase(vm.vm);
    if (vm.kind == Kind::kUnderWay) {
      return Write(
          {{"event", "detached"}, {"vm", IdOf(vm.vm)}, {"migration", IdOf(vm.migration.name())}});
    }
    Json event = {{"event", "finished"}, {"vm", IdOf(vm.vm)}, {"result", ResultName(vm.kind)}};
    if (!vm.migration.vm().empty()) event["migration"] = Parsed(JsonText(vm.migration));
    if (!HasRecord(vm)) event["error"] = Parsed(JsonErrorText(vm.error));
    Write(event);
  }
  void Write(const Json& event) {
    console_.out << event.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }

  const Console console_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::set<std::string> started_;  // VMs without an end yet
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<FleetProgress> NewPlainFleetProgress(const Console& console) {
  return std::make_unique<PlainFleetProgress>(console);
}

std::unique_ptr<FleetProgress> NewJsonFleetProgress(const Console& console) {
  return std::make_unique<JsonFleetProgress>(console);
}

void PrintFleetSummaryEvent(const FleetSummary& summary, const std::string& profile, bool dry_run,
                            const Console& console) {
  Json event = {{"event", "summary"}, {"profile", profile}, {"dryRun", dry_run}};
  event[dry_run ? "movable" : "moved"] = dry_run ? summary.movable : summary.moved;
  event["alreadyThere"] = summary.already_there;
  event["failed"] = summary.failed;
  event["underWay"] = summary.under_way;
  event["notStarted"] = summary.not_started;
  // 64-bit numbers are strings, as in the API's own messages.
  if (summary.blackout_p50_ns.has_value()) {
    event["blackoutP50Ns"] = std::to_string(*summary.blackout_p50_ns);
    event["blackoutMaxNs"] = std::to_string(*summary.blackout_max_ns);
  }
  event["elapsedNs"] = std::to_string(summary.elapsed.count());
  event["exitCode"] = static_cast<int>(summary.exit_code);
  console.out << event.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

std::string FleetPlanText(const FleetPlan& plan, const FleetOptions& options) {
  std::string text = Count(static_cast<int64_t>(plan.vms.size()), "virtual machine") +
                     " to profile " + Printable(plan.profile) + ": " +
                     std::to_string(plan.Count(Plan::kMove)) +
                     (options.request.validate_only() ? " to check" : " to move");
  const std::pair<Plan, const char*> others[] = {{Plan::kAlreadyThere, " already there"},
                                                 {Plan::kJoin, " under way"},
                                                 {Plan::kUnresolved, " unresolved"}};
  for (const auto& [which, words] : others) {
    const size_t count = plan.Count(which);
    if (count > 0) text += ", " + std::to_string(count) + words;
  }
  return text + "; " + std::to_string(options.concurrency) + " at a time";
}

}  // namespace rehome
