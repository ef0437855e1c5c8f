// SPDX-License-Identifier: Apache-2.0
//
// The commands of `rehome`, one function for each file.
#ifndef REHOME_CLIENT_CLI_COMMANDS_H_
#define REHOME_CLIENT_CLI_COMMANDS_H_

#include "CLI/App.hpp"
#include "client/cli/command.h"

namespace rehome {

// Each adds its commands to the program. `context` must outlive `app`.
void AddVmCommands(CLI::App* app, CommandContext* context);
void AddMigrateCommand(CLI::App* app, CommandContext* context);
void AddMigrationCommands(CLI::App* app, CommandContext* context);
// "trace", below "migration".
void AddTraceCommand(CLI::App* migration, CommandContext* context);
void AddHostCommand(CLI::App* app, CommandContext* context);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_COMMANDS_H_
