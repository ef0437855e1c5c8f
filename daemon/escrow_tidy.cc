// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_tidy.h"

namespace rehome {

std::optional<size_t> TidyEscrow(EscrowStore& store, const std::set<std::string>& unfinished,
                                 const JournalRepair& repair) {
  if (repair.may_miss_records()) return std::nullopt;
  return store.DropUnclaimed(unfinished);
}

}  // namespace rehome
