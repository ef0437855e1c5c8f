// SPDX-License-Identifier: Apache-2.0
#include "client/cli/cli.h"

#include <string>

#include "CLI/CLI.hpp"
#include "client/cli/command.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "proto/version.h"

namespace rehome {

int RunCli(int argc, const char* const* argv, const Console& console) {
  CommandContext context{.console = console};
  CLI::App app("Moves running guests between VMM processes of this host.", "rehome");
  app.add_option("--socket", context.socket_path, "The daemon's API socket")
      ->envname("REHOME_SOCKET")
      ->take_last()
      ->capture_default_str()
      ->type_name("PATH");
  app.add_flag("--json", context.json, "Print one JSON object instead of text");
  app.set_version_flag("--version", std::string("rehome ") + kVersion);
  app.get_formatter()->label("Excludes", "not with");
  app.get_formatter()->label("REQUIRED", "(required)");
  app.require_subcommand(1);
  // Global options are understood behind the command, too, where people write them.
  app.fallthrough();
  app.footer(
      "Examples:\n"
      "  rehome vm list\n"
      "  rehome migrate web-1 --to vmm-2\n"
      "  rehome migration list --json\n\n" +
      ExitCodeHelp());
  AddVmCommands(&app, &context);
  AddMigrateCommand(&app, &context);
  AddMigrationCommands(&app, &context);
  AddHostCommand(&app, &context);

  if (argc <= 1) {
    console.err << app.help();
    return static_cast<int>(ExitCode::kUsage);
  }
  // CLI11 reports by exception, --help and --version included.
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success, console.out, console.err);
  } catch (const CLI::ParseError& error) {
    console.err << "rehome: " << error.what() << "\nrehome --help shows how it is done\n";
    return static_cast<int>(ExitCode::kUsage);
  }
  return static_cast<int>(context.exit_code);
}

}  // namespace rehome
