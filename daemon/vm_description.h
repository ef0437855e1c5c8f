// SPDX-License-Identifier: Apache-2.0
//
// Between a description on the wire and the VmDescription that the daemon works with: this is where
// claims meet the descriptors that really came.
#ifndef REHOME_DAEMON_VM_DESCRIPTION_H_
#define REHOME_DAEMON_VM_DESCRIPTION_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/fd_kinds.h"
#include "daemon/vmm_link.h"
#include "daemon/wire_codec.h"
#include "kvmglue/fd.h"

namespace rehome {

// Takes `fds`, one for each of wire.fds in that order. Recomputes what can be recomputed: each fd's
// kind, each slot's (device, inode) and end against the file behind it, the digest. On an error
// every fd is closed: INVALID_ARGUMENT with AGENT_PROTOCOL_VIOLATION (a claim that is not true) or
// with LAYOUT_INVALID (a true one that cannot be migrated).
absl::StatusOr<VmDescription> AssembleDescription(const WireDescription& wire,
                                                  std::vector<UniqueFd> fds, const FdKinds& kinds);

// The same for the answer to HAND_IN, which has a BLOCK among its fds; that must be the block of
// `migration_id`.
absl::StatusOr<HandedIn> AssembleHandedIn(WireDescription wire, std::vector<UniqueFd> fds,
                                          const FdKinds& kinds, std::string_view migration_id);

// A description with the descriptors that go with it, in order; they stay the source's.
struct OutgoingDescription {
  WireDescription wire;
  std::vector<BorrowedFd> fds;
};

// What PREPARE says about `source`: its description without the VM fd unless `with_vm`, in
// state_format and no other, and with the handover block at the end. INTERNAL / BAD_FD if a slot's
// memory is not among its fds.
absl::StatusOr<OutgoingDescription> DescribeForTarget(const VmDescription& source, bool with_vm,
                                                      BorrowedFd block);

}  // namespace rehome

#endif  // REHOME_DAEMON_VM_DESCRIPTION_H_
