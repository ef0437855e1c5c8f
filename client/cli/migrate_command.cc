// SPDX-License-Identifier: Apache-2.0
//
// rehome migrate
#include <map>
#include <memory>
#include <string>

#include "client/cli/account.h"
#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/steps.h"
#include "client/cli/wait.h"

namespace rehome {
namespace {

struct MigrateOptions {
  std::string vm;
  std::string profile;
  bool wait = false;
  bool detach = false;
  bool dry_run = false;
  std::string deadline;
  std::string handover_timeout;
  std::string fence;
  std::string request_id;
  std::string timeout;
};

v1::CreateMigrationRequest RequestFrom(const MigrateOptions& options) {
  v1::CreateMigrationRequest request;
  request.set_vm(FullVmName(options.vm));
  request.set_target_profile(options.profile);
  request.set_request_id(options.request_id);
  request.set_validate_only(options.dry_run);
  if (const auto deadline = ParseDuration(options.deadline); deadline.has_value()) {
    *request.mutable_deadline() = ToProtoDuration(*deadline);
  }
  if (const auto timeout = ParseDuration(options.handover_timeout); timeout.has_value()) {
    *request.mutable_handover_timeout() = ToProtoDuration(*timeout);
  }
  if (options.fence == "before-resume") request.set_fence_policy(v1::Migration::BEFORE_RESUME);
  if (options.fence == "after-resume") request.set_fence_policy(v1::Migration::AFTER_RESUME);
  if (options.fence == "kernel") request.set_fence_policy(v1::Migration::KERNEL);
  return request;
}

void DryRun(CommandContext* context, const v1::CreateMigrationRequest& request) {
  const auto checked = context->NewClient()->CreateMigration(request);
  if (!checked.ok()) return context->Fail(checked.status());
  context->exit_code = ExitCodeOf(*checked);
  // A check that did not get as far as its checks blocks just the same.
  if (context->exit_code == ExitCode::kRolledBack) context->exit_code = ExitCode::kBlocked;
  if (context->json) return PrintJson(*checked, context->console);
  PrintDryRun(*checked, context->console, context->console.out);
}

void StartOnly(CommandContext* context, const v1::CreateMigrationRequest& request) {
  const auto started = context->NewClient()->CreateMigration(request);
  if (!started.ok()) return context->Fail(started.status());
  if (context->json) return PrintJson(*started, context->console);
  // The id alone on standard output, so that scripts can take it.
  const std::string id = IdOf(started->name());
  context->console.out << id << std::endl;
  context->console.err << "started; follow it with: rehome migration watch " << id << std::endl;
}

void Migrate(CommandContext* context, const MigrateOptions& options) {
  const v1::CreateMigrationRequest request = RequestFrom(options);
  if (options.dry_run) return DryRun(context, request);
  if (options.detach) return StartOnly(context, request);
  WaitInFront(
      context, [&request](MigrationClient* client) { return client->CreateMigration(request); },
      ParseDuration(options.timeout));
}

}  // namespace

void AddMigrateCommand(CLI::App* app, CommandContext* context) {
  CLI::App* const migrate =
      app->add_subcommand("migrate", "Move a running guest into a new VMM process");
  const auto options = std::make_shared<MigrateOptions>();
  migrate->add_option("VM", options->vm, "The virtual machine's id")->required();
  migrate->add_option("--to", options->profile, "Profile to start the new VMM from")
      ->required()
      ->type_name("PROFILE");
  CLI::Option* const wait =
      migrate->add_flag("--wait", options->wait, "Wait until it is finished (the default)");
  CLI::Option* const detach =
      migrate->add_flag("--detach", options->detach, "Print the migration's id and return");
  CLI::Option* const dry_run =
      migrate->add_flag("-n,--dry-run", options->dry_run, "Only check whether it could be done");
  detach->excludes(wait)->excludes(dry_run);
  dry_run->excludes(wait);
  migrate
      ->add_option("--deadline", options->deadline,
                   "Roll back unless the hand-over has begun by then (100ms to 1h)")
      ->check(CheckDuration)
      ->type_name("DURATION");
  migrate
      ->add_option("--handover-timeout", options->handover_timeout,
                   "How long the paused guest may wait for the new VMM (1ms to 10s)")
      ->check(CheckDuration)
      ->type_name("DURATION");
  migrate
      ->add_option("--fence", options->fence,
                   "When the old VMM must be proven harmless; the default follows from the VM type")
      ->check(CLI::IsMember({"before-resume", "after-resume", "kernel"}));
  migrate
      ->add_option("--request-id", options->request_id,
                   "Makes a repetition of this command harmless: the same id starts one migration")
      ->type_name("ID");
  migrate
      ->add_option("--timeout", options->timeout,
                   "Stop waiting after this long; the migration goes on")
      ->check(CheckDuration)
      ->excludes(detach)
      ->excludes(dry_run)
      ->type_name("DURATION");
  migrate->callback([context, options] { Migrate(context, *options); });
  migrate->footer(HelpFooter(
      "Ctrl-C stops waiting; the migration goes on.\n\n"
      "Examples:\n"
      "  rehome migrate web-1 --to vmm-2 --dry-run\n"
      "  rehome migrate web-1 --to vmm-2\n"
      "  id=$(rehome migrate web-1 --to vmm-2 --detach) && rehome migration watch \"$id\"\n\n" +
      ExitCodeHelp()));
}

}  // namespace rehome
