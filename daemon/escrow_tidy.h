// SPDX-License-Identifier: Apache-2.0
//
// What becomes of descriptors that the service manager kept for migrations that are over.
#ifndef REHOME_DAEMON_ESCROW_TIDY_H_
#define REHOME_DAEMON_ESCROW_TIDY_H_

#include <cstddef>
#include <optional>
#include <set>
#include <string>

#include "daemon/escrow_store.h"
#include "daemon/journal.h"

namespace rehome {

// Closes what `store` has of none of `unfinished`, and returns how many descriptors; or nothing,
// with all of them kept, if a record may be missing: they may be what is left of a guest.
std::optional<size_t> TidyEscrow(EscrowStore& store, const std::set<std::string>& unfinished,
                                 const JournalRepair& repair);

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_TIDY_H_
