// SPDX-License-Identifier: Apache-2.0
//
// What the program exits with. docs/cli.md and --help list the codes; scripts rely on them, so a
// number never changes its meaning.
#ifndef REHOME_CLIENT_CLI_EXIT_CODE_H_
#define REHOME_CLIENT_CLI_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

enum class ExitCode {
  kOk = 0,
  kError = 1,          // everything without a code of its own
  kUsage = 2,          // the command line is wrong; nothing was sent
  kBlocked = 3,        // preflight found a precondition that does not hold; nothing was touched
  kRolledBack = 4,     // failed or cancelled; the guest runs on the source
  kIndeterminate = 5,  // nobody knows who owns the guest
  kDetached = 6,       // stopped waiting; the migration goes on
  kGuestLost = 7,      // the guest runs nowhere any more
  kUnreachable = 8,    // no daemon answers
  kIncomplete = 9,     // of many: stopped by Ctrl-C before all were started; none failed
};

// Of a call that failed.
ExitCode ExitCodeOf(const absl::Status& error);

// Of a migration that is finished; kOk only if it SUCCEEDED.
ExitCode ExitCodeOf(const v1::Migration& migration);

// The table of codes for --help.
std::string ExitCodeHelp();

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_EXIT_CODE_H_
