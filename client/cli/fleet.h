// SPDX-License-Identifier: Apache-2.0
//
// rehome migrate --all: the loop of client/fleet.h in front of a person or a program.
#ifndef REHOME_CLIENT_CLI_FLEET_H_
#define REHOME_CLIENT_CLI_FLEET_H_

#include "client/cli/command.h"
#include "client/fleet.h"
#include "client/vm_filter.h"

namespace rehome {

// Plans, moves, shows what happens, prints the summary and sets the exit code. The first Ctrl-C
// starts no more; the second ends the process, with the summary. REQUIRES: no other thread runs
// yet.
void RunFleet(CommandContext* context, const FleetOptions& options, const VmFilter& filter);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_FLEET_H_
