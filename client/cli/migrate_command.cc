// SPDX-License-Identifier: Apache-2.0
//
// rehome migrate
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/account.h"
#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/fleet.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/steps.h"
#include "client/cli/wait.h"

namespace rehome {
namespace {

// Of --all. The daemon drives 8 at once by default and gives 64 watch streams to all clients.
constexpr size_t kDefaultFleetConcurrency = 4;
constexpr size_t kMaxFleetConcurrency = 32;

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
  bool all = false;
  bool keep_going = false;
  size_t concurrency = kDefaultFleetConcurrency;
  std::vector<std::string> filters;
};

v1::CreateMigrationRequest RequestFrom(const MigrateOptions& options) {
  v1::CreateMigrationRequest request;
  if (!options.all) request.set_vm(FullVmName(options.vm));
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

std::string CheckFilter(const std::string& condition) {
  return std::string(VmFilter().Add(condition).message());
}

void MigrateAll(CommandContext* context, const MigrateOptions& options) {
  VmFilter filter;
  // Checked already.
  for (const std::string& condition : options.filters) filter.Add(condition).IgnoreError();
  RunFleet(context,
           FleetOptions{.request = RequestFrom(options),
                        .concurrency = options.concurrency,
                        .keep_going = options.keep_going},
           filter);
}

void Migrate(CommandContext* context, const MigrateOptions& options) {
  if (options.all) return MigrateAll(context, options);
  if (options.vm.empty()) throw CLI::RequiredError("VM or --all");
  const v1::CreateMigrationRequest request = RequestFrom(options);
  if (options.dry_run) return DryRun(context, request);
  if (options.detach) return StartOnly(context, request);
  WaitInFront(
      context, [&request](MigrationClient* client) { return client->CreateMigration(request); },
      ParseDuration(options.timeout));
}

// The options for many at once; returns --all.
CLI::Option* AddFleetOptions(CLI::App* migrate, MigrateOptions* options) {
  CLI::Option* const all = migrate->add_flag(
      "--all", options->all, "Every virtual machine of this host that is not there yet");
  migrate
      ->add_option("--filter", options->filters,
                   "Of --all: only these. FIELD is vm, vmm or type; != excludes; may be repeated")
      ->check(CheckFilter)
      ->needs(all)
      ->allow_extra_args(false)
      ->type_name("FIELD=GLOB");
  migrate->add_option("--concurrency", options->concurrency, "Of --all: at most so many at a time")
      ->check(CLI::Range(size_t{1}, kMaxFleetConcurrency))
      ->needs(all)
      ->capture_default_str()
      ->type_name("N");
  migrate
      ->add_flag("--keep-going", options->keep_going,
                 "Of --all: a failure does not keep the rest from being started")
      ->needs(all);
  return all;
}

}  // namespace

void AddMigrateCommand(CLI::App* app, CommandContext* context) {
  CLI::App* const migrate =
      app->add_subcommand("migrate", "Move a running guest into a new VMM process");
  const auto options = std::make_shared<MigrateOptions>();
  CLI::Option* const vm =
      migrate->add_option("VM", options->vm, "The virtual machine's id; or --all");
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
  CLI::Option* const request_id =
      migrate
          ->add_option(
              "--request-id", options->request_id,
              "Makes a repetition of this command harmless: the same id starts one migration")
          ->type_name("ID");
  CLI::Option* const timeout =
      migrate
          ->add_option("--timeout", options->timeout,
                       "Stop waiting after this long; the migration goes on")
          ->check(CheckDuration)
          ->excludes(detach)
          ->excludes(dry_run)
          ->type_name("DURATION");
  CLI::Option* const all = AddFleetOptions(migrate, options.get());
  all->excludes(vm)->excludes(detach)->excludes(request_id)->excludes(timeout);
  migrate->callback([context, options] { Migrate(context, *options); });
  migrate->footer(HelpFooter(
      "Ctrl-C stops waiting; the migration goes on. With --all it starts no more and waits, and a\n"
      "second one stops waiting. The same command again continues (docs/fleet.md).\n\n"
      "Examples:\n"
      "  rehome migrate web-1 --to vmm-2 --dry-run\n"
      "  rehome migrate web-1 --to vmm-2\n"
      "  rehome migrate --all --to vmm-2 --filter 'vm=web-*' --concurrency 8\n"
      "  id=$(rehome migrate web-1 --to vmm-2 --detach) && rehome migration watch \"$id\"\n\n" +
      ExitCodeHelp()));
}

}  // namespace rehome
