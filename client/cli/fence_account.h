// SPDX-License-Identifier: Apache-2.0
//
// The fence proof for people: what is dead, who saw it, and who holds the guest's memory.
#ifndef REHOME_CLIENT_CLI_FENCE_ACCOUNT_H_
#define REHOME_CLIENT_CLI_FENCE_ACCOUNT_H_

#include <ostream>

#include "client/cli/console.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

// The whole proof, as a section; nothing if nothing is known yet.
void PrintFence(const v1::Migration& migration, const Console& console, std::ostream& out);

// One line for each process that holds guest memory and should not.
void PrintForeignHolders(const v1::FenceProof& proof, std::ostream& out);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_FENCE_ACCOUNT_H_
