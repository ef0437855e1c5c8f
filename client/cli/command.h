// SPDX-License-Identifier: Apache-2.0
//
// What every command has: the global options, the console, the way to the daemon.
#ifndef REHOME_CLIENT_CLI_COMMAND_H_
#define REHOME_CLIENT_CLI_COMMAND_H_

#include <memory>
#include <string>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "client/cli/console.h"
#include "client/cli/exit_code.h"
#include "client/migration_client.h"
#include "google/protobuf/message.h"

namespace rehome {

struct CommandContext {
  Console console;
  std::string socket_path = kDefaultApiSocket;
  bool json = false;
  // Set by the command that ran.
  ExitCode exit_code = ExitCode::kOk;

  // A client for the chosen socket; no connection is made before its first call.
  std::unique_ptr<MigrationClient> NewClient() const;

  // Reports an error of a call, as JSON or in words on standard error, and sets the exit code.
  void Fail(const absl::Status& error);
};

// "web-1" or "virtualMachines/web-1" to the latter; likewise for migrations.
std::string FullVmName(const std::string& id_or_name);
std::string FullMigrationName(const std::string& id_or_name);

// What stands below the options of a command's help: `text` and the options that every command has.
std::string HelpFooter(const std::string& text);

// A CLI11 validator for durations ("500ms", "5s", "2m", "1h").
std::string CheckDuration(const std::string& text);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_COMMAND_H_
