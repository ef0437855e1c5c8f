// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_CLI_CLI_H_
#define REHOME_CLIENT_CLI_CLI_H_

#include "client/cli/console.h"

namespace rehome {

// The program `rehome`: parses the command line, runs one command, returns the exit code
// (exit_code.h). REQUIRES: no other thread runs yet (Ctrl-C, wait.h).
int RunCli(int argc, const char* const* argv, const Console& console);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_CLI_H_
