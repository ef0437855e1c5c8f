// SPDX-License-Identifier: Apache-2.0
//
// Between a migration's escrow and what the store keeps of it: which descriptor has which name, and
// the item "description", which says what they are. It is a sealed memfd with both VMs in the form
// in which agents describe them, so that what comes back is checked by the code that checks agents.
#ifndef REHOME_DAEMON_ESCROW_DESCRIPTION_H_
#define REHOME_DAEMON_ESCROW_DESCRIPTION_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/escrow.h"
#include "daemon/escrow_store.h"
#include "daemon/fd_kinds.h"
#include "daemon/vmm_link.h"
#include "kvmglue/fd.h"
#include "vmm/agent/protocol.h"

namespace rehome {

// Two descriptions, each smaller than a message of the agent protocol, and a header.
inline constexpr size_t kMaxEscrowDescriptionBytes = 2 * REHOME_MAX_MESSAGE;

// A sealed memfd. RESOURCE_EXHAUSTED / FD_LIMIT, INTERNAL / BAD_FD (a slot whose memory is not
// among the descriptors: a bug of ours).
absl::StatusOr<UniqueFd> DescribeEscrow(const VmDescription& source, const VmDescription& target);

// The escrow of one migration as items of the store. The target's memory files are stored too: with
// LINK they are files of its own on the source's inodes, and its bindings end with them. Of
// descriptors of one open file only the first is an item, because systemd keeps no second one
// (same_fd()); which they are is in the description. All borrowed from the arguments.
std::vector<EscrowItem> EscrowItems(const VmDescription& source, const VmDescription& target,
                                    BorrowedFd block, BorrowedFd description);

struct RestoredEscrow {
  VmDescription source;
  VmDescription target;
  UniqueFd block;  // not looked at; whoever maps it checks it
  // Of the latest rescue; not looked at either. Invalid: there was none.
  UniqueFd rescue_block;
  // Of the targets that rescues built, the latest last.
  std::vector<ContextVm> rescue_vms;
};
// What EscrowItems() named, put together again, duplicates too. Takes `fds`. DATA_LOSS /
// ESCROW_DAMAGED if an item is missing, there twice, unknown, of the wrong kind or not what the
// description says; then all are closed.
absl::StatusOr<RestoredEscrow> RestoreEscrow(std::vector<NamedFd> fds, const FdKinds& kinds);

}  // namespace rehome

#endif  // REHOME_DAEMON_ESCROW_DESCRIPTION_H_
