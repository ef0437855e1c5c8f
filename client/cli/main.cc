// SPDX-License-Identifier: Apache-2.0
#include <csignal>

#include "client/cli/cli.h"
#include "client/cli/console.h"

int main(int argc, char** argv) {
  // `rehome ... | head` ends by the failed write, not by a signal in the middle of a call.
  std::signal(SIGPIPE, SIG_IGN);
  return rehome::RunCli(argc, argv, rehome::ProcessConsole());
}
