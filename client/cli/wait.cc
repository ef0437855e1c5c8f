// SPDX-License-Identifier: Apache-2.0
#include "client/cli/wait.h"

#include <memory>
#include <mutex>
#include <string>

#include "client/api_error.h"
#include "client/cli/account.h"
#include "client/cli/detach.h"
#include "client/cli/json_output.h"
#include "client/cli/progress.h"
#include "client/cli/steps.h"
#include "client/client_reasons.h"

namespace rehome {
namespace {

std::unique_ptr<Progress> NewProgress(const CommandContext& context) {
  if (context.json) return NewSilentProgress();
  if (context.console.err_is_terminal) return NewLiveProgress(context.console);
  return NewPlainProgress(context.console);
}

// What Ctrl-C needs to know, shared between the thread that waits and the one that is interrupted.
class Waiting {
 public:
  explicit Waiting(const Console& console) : console_(console) {}

  void Started(const std::string& id, Progress* progress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    id_ = id;
    progress_ = progress;
  }
  // The outcome is known and about to be printed: nothing to detach from any more.
  void Ended() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    progress_ = nullptr;
  }

  // How to come back, after Ctrl-C or a time-out.
  void PrintFarewell() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return;
    if (progress_ != nullptr) progress_->Finish();
    if (id_.empty()) {
      console_.err << "\nInterrupted before the daemon answered; the migration may have started:\n"
                   << "  rehome migration list" << std::endl;
      return;
    }
    console_.err << "Detached; the migration goes on. Come back or stop it with:\n"
                 << "  rehome migration watch " << id_ << "\n"
                 << "  rehome migration cancel " << id_ << std::endl;
  }

 private:
  const Console console_;
  std::mutex mutex_;
  std::string id_;
  Progress* progress_ = nullptr;
  bool ended_ = false;
};

}  // namespace

void WaitInFront(CommandContext* context,
                 const std::function<absl::StatusOr<v1::Migration>(MigrationClient*)>& start,
                 std::optional<std::chrono::milliseconds> timeout) {
  Waiting waiting(context->console);
  const DetachOnInterrupt detach([&waiting] { waiting.PrintFarewell(); });

  const auto client = context->NewClient();
  absl::StatusOr<v1::Migration> migration = start(client.get());
  if (!migration.ok()) return context->Fail(migration.status());
  const std::unique_ptr<Progress> progress = NewProgress(*context);
  waiting.Started(IdOf(migration->name()), progress.get());
  progress->Update(*migration);
  if (!IsFinished(*migration)) {
    migration = client->WatchMigration(
        migration->name(),
        WatchOptions{.resume_revision = migration->revision(),
                     .on_update = [&](const v1::Migration& now) { progress->Update(now); },
                     .on_broken =
                         [&](const absl::Status& status) {
                           progress->Note("lost the daemon, trying again: " +
                                          std::string(status.message()));
                         },
                     .timeout = timeout});
  }
  if (!migration.ok()) {
    if (ApiReasonOf(migration.status()) == client_reason::kWaitTimeout && !context->json) {
      waiting.PrintFarewell();
    }
    waiting.Ended();
    progress->Finish();
    return context->Fail(migration.status());
  }
  waiting.Ended();
  progress->Finish();
  context->exit_code = ExitCodeOf(*migration);
  if (context->json) return PrintJson(*migration, context->console);
  PrintOutcome(*migration, context->console, context->console.out);
}

}  // namespace rehome
