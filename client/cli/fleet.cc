// SPDX-License-Identifier: Apache-2.0
#include "client/cli/fleet.h"

#include <unistd.h>

#include <chrono>
#include <memory>
#include <mutex>

#include "client/cli/fleet_progress.h"
#include "client/cli/fleet_summary.h"
#include "client/cli/interrupt_watch.h"

namespace rehome {
namespace {

using Clock = std::chrono::steady_clock;

std::unique_ptr<FleetProgress> NewFleetProgress(const CommandContext& context) {
  if (context.json) return NewJsonFleetProgress(context.console);
  if (context.console.err_is_terminal) return NewLiveFleetProgress(context.console);
  return NewPlainFleetProgress(context.console);
}

// What both the thread that moves and the one that is interrupted need.
class FleetRun {
 public:
  FleetRun(CommandContext* context, const FleetOptions& options)
      : context_(context), options_(options), begun_(Clock::now()) {}

  // From here on there is something to stop.
  void Began(const FleetPlan& plan, FleetMove* move, FleetProgress* progress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    progress->Planned(plan, options_);
    move_ = move;
    progress_ = progress;
  }
  // Nothing is to be moved; the caller says why.
  void EndedBeforeItBegan() {
    const std::lock_guard<std::mutex> lock(mutex_);
    reported_ = true;
  }

  // The summary, once; true for the caller that has printed it.
  bool Report(ExitCode* exit_code) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (reported_ || move_ == nullptr) return false;
    reported_ = true;
    progress_->Finish();
    const bool dry_run = options_.request.validate_only();
    const std::vector<FleetResult> results = move_->Results();
    progress_->EndAll(results);
    const FleetSummary summary = Summarize(results, dry_run, Clock::now() - begun_);
    *exit_code = summary.exit_code;
    if (context_->json) {
      PrintSummaryEvent(summary);
    } else {
      PrintFleetSummary(summary, results, dry_run, context_->console, context_->console.out);
      context_->console.out << std::flush;
    }
    return true;
  }

  void Interrupt(int number) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (reported_) return;  // it is ending already
      if (move_ == nullptr) EndWhilePlanning();
      if (number == 1) {
        progress_->Stopping();
        move_->StopStarting();
        return;
      }
    }
    ExitCode exit_code = ExitCode::kDetached;
    // False: the other thread has reported meanwhile, and ends the program as it was to end.
    if (Report(&exit_code)) EndNow(exit_code);
  }

 private:
  // Nothing has been started, and what the list waits for may be a daemon that hangs.
  [[noreturn]] void EndWhilePlanning() {
    if (context_->json) {
      FleetSummary nothing = Summarize({}, options_.request.validate_only(), Clock::now() - begun_);
      nothing.exit_code = ExitCode::kIncomplete;
      PrintSummaryEvent(nothing);
    } else {
      context_->console.err << "stopped before anything was started" << std::endl;
    }
    EndNow(ExitCode::kIncomplete);
  }

  // Not exit(): threads that wait for the daemon use what exit() would destroy.
  [[noreturn]] static void EndNow(ExitCode exit_code) { _exit(static_cast<int>(exit_code)); }

  void PrintSummaryEvent(const FleetSummary& summary) {
    PrintFleetSummaryEvent(summary, options_.request.target_profile(),
                           options_.request.validate_only(), context_->console);
  }

  CommandContext* const context_;
  const FleetOptions& options_;
  const Clock::time_point begun_;
  std::mutex mutex_;
  // Guarded by mutex_.
  FleetMove* move_ = nullptr;
  FleetProgress* progress_ = nullptr;
  bool reported_ = false;  // or there is nothing to report
};

}  // namespace

void RunFleet(CommandContext* context, const FleetOptions& options, const VmFilter& filter) {
  FleetRun run(context, options);
  const InterruptWatch interrupts([&run](int number) { run.Interrupt(number); });

  const auto client = context->NewClient();
  const auto plan = PlanFleet(client.get(), options.request.target_profile(), filter);
  if (!plan.ok()) {
    run.EndedBeforeItBegan();
    return context->Fail(plan.status());
  }
  if (plan->vms.empty() && !context->json) {
    run.EndedBeforeItBegan();
    context->console.err << (filter.empty() ? "no virtual machine is registered\n"
                                            : "the filter selects no virtual machine\n");
    return;
  }
  const std::unique_ptr<FleetProgress> progress = NewFleetProgress(*context);
  FleetMove move(client.get(), *plan, options, progress.get());
  run.Began(*plan, &move, progress.get());
  move.Run();
  run.Report(&context->exit_code);
}

}  // namespace rehome
