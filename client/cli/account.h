// SPDX-License-Identifier: Apache-2.0
//
// A migration, told at length.
#ifndef REHOME_CLIENT_CLI_ACCOUNT_H_
#define REHOME_CLIENT_CLI_ACCOUNT_H_

#include <ostream>

#include "client/cli/console.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

// What a finished migration came to, in a few lines: who runs the guest, how long it was paused and
// what it was paused for; or why not, and what to look at.
void PrintOutcome(const v1::Migration& migration, const Console& console, std::ostream& out);

// Everything the record has, for `migration get`.
void PrintAccount(const v1::Migration& migration, const Console& console, std::ostream& out);

// What a dry run found.
void PrintDryRun(const v1::Migration& migration, const Console& console, std::ostream& out);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_ACCOUNT_H_
