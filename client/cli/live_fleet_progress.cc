// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>

#include "client/cli/fleet_progress.h"
#include "client/cli/spinner.h"
#include "client/cli/steps.h"

namespace rehome {
namespace {

using Kind = FleetResult::Kind;
using Plan = FleetVm::Plan;

// Without automatic line wrap a line that is too long is cut by the terminal and stays one line.
constexpr char kRedraw[] = "\r\x1b[2K\x1b[?7l";
constexpr char kWrapOn[] = "\x1b[?7h";
constexpr char kClear[] = "\r\x1b[2K";
// Of those under way that are named; a terminal has room for about as many.
constexpr size_t kNamed = 4;

std::string InWords(v1::Migration::State state) {
  std::string text = v1::Migration::State_Name(state);
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return c == '_' ? ' ' : static_cast<char>(std::tolower(c));
  });
  return text;
}

class LiveFleetProgress final : public FleetProgress {
 public:
  explicit LiveFleetProgress(const Console& console)
      : console_(console),
        started_(Clock::now()),
        spinner_(console.unicode, &mutex_, [this] { Draw(); }) {}

  ~LiveFleetProgress() override { Finish(); }

  void Planned(const FleetPlan& plan, const FleetOptions& options) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    total_ = plan.vms.size() - plan.Count(Plan::kAlreadyThere);
    dry_run_ = options.request.validate_only();
    Above(FleetPlanText(plan, options));
  }
  void Started(const FleetResult& vm) override { Updated(vm); }
  void Updated(const FleetResult& vm) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    note_.clear();
    under_way_[vm.vm] = vm.migration.state();
    Draw();
  }
  void Finished(const FleetResult& vm) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    note_.clear();
    under_way_.erase(vm.vm);
    ++done_;
    if (vm.kind != Kind::kFailed) return Draw();
    ++failed_;
    Above(FleetResultText(vm, console_));
  }
  void Note(const std::string& text) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    note_ = Printable(text);
    Draw();
  }
  void Stopping() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    Draw();
  }
  void Finish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    finished_ = true;
    console_.err << kClear << std::flush;
    spinner_.Stop();
  }
  // The line that showed the starts is gone, and the summary lists what is under way.
  void EndAll(const std::vector<FleetResult>& /*results*/) override {}

 private:
  using Clock = std::chrono::steady_clock;

  std::string Line() const {
    const std::chrono::duration<double> seconds = Clock::now() - started_;
    char clock[32];
    std::snprintf(clock, sizeof(clock), "%.1f s", seconds.count());
    std::string line = spinner_.picture() + " " + std::to_string(done_) + "/" +
                       std::to_string(total_) + (dry_run_ ? " checked" : " done") + "  " + clock;
    if (failed_ > 0) line += "  " + console_.Red(std::to_string(failed_) + " failed");
    if (!note_.empty()) return line + "  " + console_.Yellow(note_);
    if (stopping_)
      line += "  " + console_.Yellow("starting no more (Ctrl-C again leaves the rest)");
    size_t named = 0;
    for (const auto& [vm, state] : under_way_) {
      if (named++ == kNamed) break;
      line += (named == 1 ? "  " : ", ") + IdOf(vm) + console_.Dim(" " + InWords(state));
    }
    if (under_way_.size() > kNamed) line += ", ...";
    return line;
  }

  // These two REQUIRE mutex_. One write each, so that a program that ends meanwhile leaves a whole
  // picture.
  void Draw() {
    if (finished_ || total_ == 0) return;
    console_.err << kRedraw + Line() + kWrapOn << std::flush;
  }
  void Above(const std::string& text) {
    console_.err << kClear + text + "\n" << std::flush;
    Draw();
  }

  const Console console_;
  const Clock::time_point started_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, v1::Migration::State> under_way_;
  std::string note_;
  size_t total_ = 0;
  size_t done_ = 0;
  size_t failed_ = 0;
  bool dry_run_ = false;
  bool stopping_ = false;
  bool finished_ = false;
  // The last member: it uses the others.
  Spinner spinner_;
};

}  // namespace

std::unique_ptr<FleetProgress> NewLiveFleetProgress(const Console& console) {
  return std::make_unique<LiveFleetProgress>(console);
}

}  // namespace rehome
