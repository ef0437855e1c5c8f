// SPDX-License-Identifier: Apache-2.0
//
// The one table of how a VM of a given type is moved. Pure.
//
//   VM type             memory                  context  fence
//   SW_PROTECTED, TDX   LINK                    MOVE     kernel (vm_dead) + process exit
//   SEV, SEV-ES         MAP (same memfd)        MOVE     kernel (vm_dead) + process exit
//   default             LINK, else MAP          none     process exit, before resume
//   SNP                 refused: kernels before the June 2026 fix accept the MOVE and lose state
//                       (KVM: SEV: Do not allow intra-host migration/mirroring of SNP VMs)
#ifndef REHOME_DAEMON_STRATEGY_H_
#define REHOME_DAEMON_STRATEGY_H_

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "kvmglue/capabilities.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// What is known of the memory files behind a VM's slots.
struct MemoryKinds {
  bool all_guest_memfd = false;  // LINK needs a guest_memfd
  bool all_mappable = false;     // mmap(2) of each succeeds
};

// FAILED_PRECONDITION with SNP_REFUSED, LINK_UNSUPPORTED, MOVE_UNSUPPORTED or MEMORY_NOT_SHAREABLE;
// the message says what this host lacks.
absl::StatusOr<Strategy> ChooseStrategy(VmType vm_type, const HostCapabilities& host,
                                        const MemoryKinds& memory);

bool HasMove(Strategy strategy);
bool HasLink(Strategy strategy);
// REHOME_FEATURE_* bits that both agents must have.
uint32_t RequiredFeatures(Strategy strategy);

// The policy in force: the requested one, or the strategy's default. INVALID_ARGUMENT /
// FENCE_POLICY_IMPOSSIBLE for a kernel fence without MOVE.
absl::StatusOr<FencePolicy> ResolveFencePolicy(Strategy strategy, FencePolicy requested);

}  // namespace rehome

#endif  // REHOME_DAEMON_STRATEGY_H_
