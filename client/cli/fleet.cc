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
  void Began(FleetMove* move, FleetProgress* progress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    move_ = move;
    progress_ = progress;
    if (!interrupted_) return;
    progress->Stopping();
    move->StopStarting();
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
      PrintFleetSummaryEvent(summary, options_.request.target_profile(), dry_run,
                             context_->console);
    } else {
      PrintFleetSummary(summary, results, dry_run, context_->console, context_->console.out);
      context_->console.out << std::flush;
    }
    return true;
  }

  void Interrupt(int number) {
    if (number == 1) {
      const std::lock_guard<std::mutex> lock(mutex_);
      interrupted_ = true;
      if (reported_ || move_ == nullptr) return;  // not begun, or over, and perhaps gone
      progress_->Stopping();
      move_->StopStarting();
      return;
    }
    ExitCode exit_code = ExitCode::kDetached;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (reported_) return;  // it is ending already
    }
    // Before there is anything to stop, nothing has been started. False with a move: the other
    // thread has reported meanwhile, and ends the program as it was to end.
    if (!Report(&exit_code) && HasReported()) return;
    // Not exit(): threads that wait for the daemon use what exit() would destroy.
    _exit(static_cast<int>(exit_code));
  }

 private:
  bool HasReported() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reported_;
  }

  CommandContext* const context_;
  const FleetOptions& options_;
  const Clock::time_point begun_;
  std::mutex mutex_;
  // Guarded by mutex_.
  FleetMove* move_ = nullptr;
  FleetProgress* progress_ = nullptr;
  bool interrupted_ = false;
  bool reported_ = false;
};

}  // namespace

void RunFleet(CommandContext* context, const FleetOptions& options, const VmFilter& filter) {
  FleetRun run(context, options);
  const InterruptWatch interrupts([&run](int number) { run.Interrupt(number); });

  const auto client = context->NewClient();
  const auto plan = PlanFleet(client.get(), options.request.target_profile(), filter);
  if (!plan.ok()) return context->Fail(plan.status());
  if (plan->vms.empty() && !context->json) {
    context->console.err << (filter.empty() ? "no virtual machine is registered\n"
                                            : "the filter selects no virtual machine\n");
    return;
  }
  const std::unique_ptr<FleetProgress> progress = NewFleetProgress(*context);
  progress->Planned(*plan, options);
  FleetMove move(client.get(), *plan, options, progress.get());
  run.Began(&move, progress.get());
  move.Run();
  run.Report(&context->exit_code);
}

}  // namespace rehome
