// SPDX-License-Identifier: Apache-2.0
//
// A migration's escrow and its double with the service manager, which outlives this process: both
// are filled and dropped here, together.
#ifndef REHOME_DAEMON_ESCROW_KEEPING_H_
#define REHOME_DAEMON_ESCROW_KEEPING_H_

#include "absl/status/status.h"
#include "daemon/effect_context.h"
#include "daemon/escrow_description.h"

namespace rehome {

// Stores the escrow of an armed migration. Errors: those of DescribeEscrow() and
// EscrowStore::Put(); nothing is stored then. REQUIRES: source, target and block.
absl::Status KeepEscrow(EffectContext& context, const Migration& record);

// Adds the block and the VM of a rescue's target. On an error (those of EscrowStore::Put()) the
// block of an earlier attempt may still be stored, and would be taken for this target's: the caller
// removes all, and another daemon can go on only with what the target itself hands in. REQUIRES: as
// above.
absl::Status KeepRescue(EffectContext& context, const Migration& record);

// Puts what a predecessor stored in its place, also in the middle of a rescue. DATA_LOSS /
// ESCROW_DAMAGED, with the escrow as it was, if a block is none of this migration.
absl::Status FillEscrow(RestoredEscrow restored, const Migration& record, Escrow& escrow);

// Closes all that is held of the guest, here and with the manager. A manager that does not listen
// keeps its part until the next daemon starts, which drops what belongs to no unfinished migration.
void DropEscrow(EffectContext& context, const Migration& record);

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_KEEPING_H_
