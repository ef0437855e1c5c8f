// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <mutex>
#include <vector>

#include "client/cli/progress.h"
#include "client/cli/steps.h"
#include "client/migration_client.h"

namespace rehome {
namespace {

class PlainProgress final : public Progress {
 public:
  explicit PlainProgress(const Console& console) : console_(console) {}

  void Update(const v1::Migration& migration) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    if (!introduced_) {
      console_.err << IdOf(migration.name()) << ": " << IdOf(migration.vm()) << " to profile "
                   << Printable(migration.target_profile()) << std::endl;
      introduced_ = true;
    }
    const std::vector<StepView> steps = StepsOf(migration, console_);
    while (printed_ < steps.size() && IsDecided(steps[printed_])) {
      // The pause is measured a moment after the guest has changed hands; it belongs on the line.
      const bool last = printed_ + 1 == steps.size() || !IsDecided(steps[printed_ + 1]);
      if (steps[printed_].detail.empty() && last && !IsFinished(migration)) break;
      Print(steps[printed_++]);
    }
    if (migration.state() == v1::Migration::ROLLING_BACK && !rolling_back_) {
      rolling_back_ = true;
      const bool undecided = migration.guest_owner() == v1::Migration::UNDECIDED;
      console_.err << (undecided ? "settling" : "rolling back") << "; the guest "
                   << GuestStatus(migration) << std::endl;
    }
  }

  void Note(const std::string& text) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!finished_) console_.err << Printable(text) << std::endl;
  }

  void Finish() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
  }

 private:
  static bool IsDecided(const StepView& step) {
    return step.mark == StepView::Mark::kDone || step.mark == StepView::Mark::kFailed;
  }

  void Print(const StepView& step) {
    const bool done = step.mark == StepView::Mark::kDone;
    console_.err << (done ? console_.ok_mark() : console_.failed_mark()) << " " << step.title;
    if (!step.detail.empty()) console_.err << ": " << step.detail;
    console_.err << std::endl;
  }

  const Console console_;
  std::mutex mutex_;
  bool introduced_ = false;
  bool rolling_back_ = false;
  bool finished_ = false;
  size_t printed_ = 0;
};

class SilentProgress final : public Progress {
 public:
  void Update(const v1::Migration& /*migration*/) override {}
  void Note(const std::string& /*text*/) override {}
  void Finish() override {}
};

}  // namespace

std::unique_ptr<Progress> NewPlainProgress(const Console& console) {
  return std::make_unique<PlainProgress>(console);
}

std::unique_ptr<Progress> NewSilentProgress() { return std::make_unique<SilentProgress>(); }

}  // namespace rehome
