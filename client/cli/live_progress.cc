// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <mutex>
#include <sstream>
#include <vector>

#include "client/cli/progress.h"
#include "client/cli/spinner.h"
#include "client/cli/steps.h"
#include "client/migration_client.h"

namespace rehome {
namespace {

constexpr size_t kTitleColumns = 18;

// Without automatic line wrap a line that is too long is cut by the terminal and stays one line, so
// that going up N lines really goes up N lines, however wide the terminal is.
constexpr char kWrapOff[] = "\x1b[?7l";
constexpr char kWrapOn[] = "\x1b[?7h";
constexpr char kClearLine[] = "\x1b[2K";
constexpr char kClearBelow[] = "\x1b[J";

class LiveProgress final : public Progress {
 public:
  explicit LiveProgress(const Console& console)
      : console_(console),
        started_(Clock::now()),
        spinner_(console.unicode, &mutex_, [this] { Draw(); }) {}

  ~LiveProgress() override { Finish(); }

  void Update(const v1::Migration& migration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    migration_ = migration;
    note_.clear();
    known_ = true;
    Draw();
  }

  void Note(const std::string& text) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    note_ = Printable(text);
    Draw();
  }

  void Finish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    finished_ = true;
    Draw();
    spinner_.Stop();
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string Mark(const StepView& step) const {
    switch (step.mark) {
      case StepView::Mark::kDone:
        return console_.Green(console_.ok_mark());
      case StepView::Mark::kFailed:
        return console_.Red(console_.unicode ? "✗" : "x");
      case StepView::Mark::kActive:
        return finished_ ? ">" : spinner_.picture();
      case StepView::Mark::kWaiting:
        return console_.Dim(console_.unicode ? "·" : "-");
    }
    return "";
  }

  std::string Elapsed() const {
    const std::chrono::duration<double> seconds = Clock::now() - started_;
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f s", seconds.count());
    return text;
  }

  std::vector<std::string> Lines() const {
    std::vector<std::string> lines;
    lines.push_back(console_.Bold(IdOf(migration_.vm())) + " to profile " +
                    console_.Bold(Printable(migration_.target_profile())) + "  " +
                    console_.Dim(IdOf(migration_.name()) + "  " + Elapsed()));
    lines.emplace_back();
    for (const StepView& step : StepsOf(migration_, console_)) {
      const std::string title = PadTo(step.title, kTitleColumns);
      const bool waiting = step.mark == StepView::Mark::kWaiting;
      lines.push_back("  " + PadTo(Mark(step), 2) + " " + (waiting ? console_.Dim(title) : title) +
                      step.detail);
    }
    lines.emplace_back();
    // The outcome that follows says it better.
    if (!finished_ || !IsFinished(migration_)) lines.push_back("  " + Footer());
    return lines;
  }

  std::string Footer() const {
    if (!note_.empty()) return console_.Yellow(note_);
    std::string text = "The guest " + GuestStatus(migration_);
    if (migration_.state() == v1::Migration::ROLLING_BACK) {
      const bool undecided = migration_.guest_owner() == v1::Migration::UNDECIDED;
      text = (undecided ? "Settling. " : "Rolling back. ") + text;
    }
    if (migration_.state() == v1::Migration::PENDING) text = "Waiting for its turn. " + text;
    if (!finished_) text += console_.Dim("   (Ctrl-C detaches)");
    return text;
  }

  // REQUIRES: mutex_ is held.
  void Draw() {
    if (!known_) return;
    std::ostringstream picture;
    picture << kWrapOff;
    if (drawn_lines_ > 0) picture << "\x1b[" << drawn_lines_ << "A\r";
    const std::vector<std::string> lines = Lines();
    for (const std::string& line : lines) picture << kClearLine << line << "\n";
    picture << kClearBelow << kWrapOn;
    drawn_lines_ = lines.size();
    // One write, so that a program that ends meanwhile leaves a whole picture.
    console_.err << picture.str() << std::flush;
  }

  const Console console_;
  const Clock::time_point started_;
  std::mutex mutex_;
  // Guarded by mutex_.
  v1::Migration migration_;
  std::string note_;
  bool known_ = false;
  bool finished_ = false;
  size_t drawn_lines_ = 0;
  // The last member: it uses the others.
  Spinner spinner_;
};

}  // namespace

std::unique_ptr<Progress> NewLiveProgress(const Console& console) {
  return std::make_unique<LiveProgress>(console);
}

}  // namespace rehome
