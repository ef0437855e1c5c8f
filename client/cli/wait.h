// SPDX-License-Identifier: Apache-2.0
//
// Waiting for a migration in front of a person: progress, Ctrl-C, the outcome.
#ifndef REHOME_CLIENT_CLI_WAIT_H_
#define REHOME_CLIENT_CLI_WAIT_H_

#include <chrono>
#include <functional>
#include <optional>

#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

// Calls `start` for the migration to wait for, shows its progress until it is finished or `timeout`
// passes, prints the outcome and sets the exit code. Ctrl-C ends the program at any time, saying
// how to come back. REQUIRES: no other thread runs yet.
void WaitInFront(CommandContext* context,
                 const std::function<absl::StatusOr<v1::Migration>(MigrationClient*)>& start,
                 std::optional<std::chrono::milliseconds> timeout);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_WAIT_H_
