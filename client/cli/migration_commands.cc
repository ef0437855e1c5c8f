// SPDX-License-Identifier: Apache-2.0
//
// rehome migration list | get | watch | cancel | resolve (and trace: trace_command.cc)
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "client/cli/account.h"
#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/steps.h"
#include "client/cli/table.h"
#include "client/cli/wait.h"

namespace rehome {
namespace {

// A screenful.
constexpr int kDefaultListed = 50;
// As many as the daemon gives at once.
constexpr int kMaxPage = 500;

struct ListOptions {
  std::string vm;
  std::string state;
  std::string filter;
  int limit = kDefaultListed;
};

std::string FilterFrom(const ListOptions& options) {
  std::string filter = options.filter;
  const auto add = [&filter](const std::string& field, const std::string& value) {
    if (value.empty()) return;
    filter += (filter.empty() ? "" : " AND ") + field + " = \"" + value + "\"";
  };
  add("vm", options.vm);
  std::string state = options.state;
  std::transform(state.begin(), state.end(), state.begin(), [](char c) {
    return c == '-' ? '_' : (c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c);
  });
  add("state", state);
  return filter;
}

void PrintMigrationTable(const v1::ListMigrationsResponse& list, const Console& console) {
  using Align = Table::Align;
  Table table({Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight,
               Align::kLeft});
  table.Add({"MIGRATION", "VM", "PROFILE", "STATE", "OWNER", "BLACKOUT", "REQUESTED"});
  for (const v1::Migration& migration : list.migrations()) {
    table.Add({IdOf(migration.name()), IdOf(migration.vm()), Printable(migration.target_profile()),
               v1::Migration::State_Name(migration.state()),
               v1::Migration::GuestOwner_Name(migration.guest_owner()),
               migration.has_blackout()
                   ? FormatNanos(migration.blackout().total_ns(), console.micro())
                   : "-",
               FormatTime(migration.create_time())});
  }
  table.Print("", console.out);
}

void ListMigrations(CommandContext* context, const ListOptions& options) {
  const auto client = context->NewClient();
  v1::ListMigrationsResponse all;
  v1::ListMigrationsRequest request;
  request.set_filter(FilterFrom(options));
  do {
    request.set_page_size(std::min(kMaxPage, options.limit - all.migrations_size()));
    auto page = client->ListMigrations(request);
    if (!page.ok()) return context->Fail(page.status());
    request.set_page_token(page->next_page_token());
    for (auto& one : *page->mutable_migrations()) *all.add_migrations() = std::move(one);
  } while (!request.page_token().empty() && all.migrations_size() < options.limit);

  all.set_next_page_token(request.page_token());
  if (context->json) return PrintJson(all, context->console);
  if (all.migrations().empty()) {
    context->console.err << "no migration is on record\n";
    return;
  }
  PrintMigrationTable(all, context->console);
  if (!all.next_page_token().empty()) {
    context->console.err << "and older ones; --limit shows more\n";
  }
}

void GetMigration(CommandContext* context, const std::string& id) {
  v1::GetMigrationRequest request;
  request.set_name(FullMigrationName(id));
  const auto migration = context->NewClient()->GetMigration(request);
  if (!migration.ok()) return context->Fail(migration.status());
  if (context->json) return PrintJson(*migration, context->console);
  PrintAccount(*migration, context->console, context->console.out);
}

void WatchMigration(CommandContext* context, const std::string& id, const std::string& timeout) {
  v1::GetMigrationRequest request;
  request.set_name(FullMigrationName(id));
  WaitInFront(
      context, [&request](MigrationClient* client) { return client->GetMigration(request); },
      ParseDuration(timeout));
}

void CancelMigration(CommandContext* context, const std::string& id) {
  v1::CancelMigrationRequest request;
  request.set_name(FullMigrationName(id));
  const auto migration = context->NewClient()->CancelMigration(request);
  if (!migration.ok()) return context->Fail(migration.status());
  if (context->json) return PrintJson(*migration, context->console);
  context->console.out << IdOf(migration->name()) << " was asked to stop; it is "
                       << v1::Migration::State_Name(migration->state()) << " and the guest "
                       << GuestStatus(*migration) << "\n";
}

struct ResolveOptions {
  std::string id;
  bool wait = false;
  bool detach = false;
  std::string timeout;
};

void ResolveMigration(CommandContext* context, const ResolveOptions& options) {
  v1::ResolveMigrationRequest request;
  request.set_name(FullMigrationName(options.id));
  if (!options.detach) {
    return WaitInFront(
        context, [&request](MigrationClient* client) { return client->ResolveMigration(request); },
        ParseDuration(options.timeout));
  }
  const auto migration = context->NewClient()->ResolveMigration(request);
  if (!migration.ok()) return context->Fail(migration.status());
  if (context->json) return PrintJson(*migration, context->console);
  const std::string id = IdOf(migration->name());
  context->console.out << id << std::endl;
  context->console.err << "looking again; follow it with: rehome migration watch " << id
                       << std::endl;
}

void AddResolve(CLI::App* migration, CommandContext* context) {
  CLI::App* const resolve = migration->add_subcommand(
      "resolve", "Look again at an INDETERMINATE migration, and go on from what is found");
  const auto options = std::make_shared<ResolveOptions>();
  resolve->add_option("MIGRATION", options->id, "Its id")->required();
  CLI::Option* const wait =
      resolve->add_flag("--wait", options->wait, "Wait for the outcome (the default)");
  CLI::Option* const detach =
      resolve->add_flag("--detach", options->detach, "Print the migration's id and return");
  detach->excludes(wait);
  resolve
      ->add_option("--timeout", options->timeout,
                   "Stop waiting after this long; the migration goes on")
      ->check(CheckDuration)
      ->excludes(detach)
      ->type_name("DURATION");
  resolve->callback([context, options] { ResolveMigration(context, *options); });
  resolve->footer(
      HelpFooter("Asks both VMMs and the kernel anew. It guesses nothing: as long as neither VMM\n"
                 "answers and neither is proven dead, the outcome stays 5.\n\nExample:\n"
                 "  rehome migration resolve m-0123456789abcdef\n\n" +
                 ExitCodeHelp()));
}

void AddList(CLI::App* migration, CommandContext* context) {
  CLI::App* const list = migration->add_subcommand("list", "List migrations, newest first");
  const auto options = std::make_shared<ListOptions>();
  list->add_option("--vm", options->vm, "Only those of this virtual machine")->type_name("VM");
  list->add_option("--state", options->state,
                   "Only those in this state (succeeded, preparing, ...)")
      ->type_name("STATE");
  list->add_option("--filter", options->filter, "Filter of the API, in addition")
      ->type_name("EXPRESSION");
  list->add_option("--limit", options->limit, "At most so many")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  list->callback([context, options] { ListMigrations(context, *options); });
  list->footer(
      HelpFooter("Examples:\n"
                 "  rehome migration list --vm web-1 --state failed\n"
                 "  rehome migration list --filter 'vm = \"web-1\" AND state = SUCCEEDED' --json"));
}

}  // namespace

void AddMigrationCommands(CLI::App* app, CommandContext* context) {
  CLI::App* const migration =
      app->add_subcommand("migration", "Show, follow, cancel and resolve migrations");
  migration->require_subcommand(1);
  AddList(migration, context);

  const auto id = std::make_shared<std::string>();
  CLI::App* const get = migration->add_subcommand("get", "Show everything about one migration");
  get->add_option("MIGRATION", *id, "Its id")->required();
  get->callback([context, id] { GetMigration(context, *id); });
  get->footer(HelpFooter("Example:\n  rehome migration get m-0123456789abcdef"));

  const auto timeout = std::make_shared<std::string>();
  CLI::App* const watch = migration->add_subcommand("watch", "Follow a migration to its end");
  watch->add_option("MIGRATION", *id, "Its id")->required();
  watch->add_option("--timeout", *timeout, "Stop waiting after this long; the migration goes on")
      ->check(CheckDuration)
      ->type_name("DURATION");
  watch->callback([context, id, timeout] { WatchMigration(context, *id, *timeout); });
  watch->footer(
      HelpFooter("Ctrl-C stops waiting; the migration goes on.\n\nExample:\n"
                 "  rehome migration watch m-0123456789abcdef --timeout 30s\n\n" +
                 ExitCodeHelp()));

  CLI::App* const cancel =
      migration->add_subcommand("cancel", "Ask a migration to stop; the guest stays on the source");
  cancel->add_option("MIGRATION", *id, "Its id")->required();
  cancel->callback([context, id] { CancelMigration(context, *id); });
  cancel->footer(
      HelpFooter("Refused with PAST_COMMIT once the target owns the guest.\n\nExample:\n"
                 "  rehome migration cancel m-0123456789abcdef"));

  AddResolve(migration, context);
  AddTraceCommand(migration, context);
}

}  // namespace rehome
