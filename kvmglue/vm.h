// SPDX-License-Identifier: Apache-2.0
//
// A VM and its vCPUs, typed. Each method is one ioctl or a short fixed sequence; errno is translated
// here, once (errno_status.h). KVM accepts VM and vCPU ioctls only from the address space that
// created the VM (virt/kvm/kvm_main.c, kvm->mm != current->mm: EIO), so these objects belong to the
// VMM process; a daemon that received the fd of one can pass it on and compare it, nothing else.
#ifndef REHOME_KVMGLUE_VM_H_
#define REHOME_KVMGLUE_VM_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/capabilities.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/memory_layout.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// GUEST_MEMFD_FLAG_* (include/uapi/linux/kvm.h, 6.18).
inline constexpr uint64_t kGuestMemfdMmap = 1u << 0;
inline constexpr uint64_t kGuestMemfdInitShared = 1u << 1;

// In-kernel devices of the whole VM. Present only if CreateIrqchip() was called.
struct VmState;  // vm_state.h

// Thread-safe as far as KVM is: different vCPUs from different threads, VM ioctls from any.
// `kernel` must outlive the object.
class Vm {
 public:
  // KVM_CREATE_VM. FAILED_PRECONDITION / VM_TYPE_UNSUPPORTED (EINVAL), UNAVAILABLE / KVM_UNAVAILABLE.
  static absl::StatusOr<std::unique_ptr<Vm>> Create(KvmSyscalls& kernel, VmType type,
                                                    const LinkAbi& link_abi);

  VmType type() const { return type_; }
  BorrowedFd fd() const { return fd_.borrow(); }

  // KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2. Before vCPUs.
  // TSS and identity pages are KVM's own memslots: both sides must set the same addresses, or MOVE
  // finds different bindings.
  absl::Status CreateIrqchip();

  // KVM_CREATE_GUEST_MEMFD; close-on-exec is set at once. INVALID_ARGUMENT / KVM_INVALID.
  absl::StatusOr<UniqueFd> CreateGuestMemfd(uint64_t size_bytes, uint64_t flags);

  // KVM_LINK_GUEST_MEMFD: a new file of this VM on the inode behind `source`.
  // FAILED_PRECONDITION / LINK_UNSUPPORTED (ENOTTY), INVALID_ARGUMENT / LINK_REFUSED (EINVAL: not a
  // guest_memfd, or already this VM's).
  absl::StatusOr<UniqueFd> LinkGuestMemfd(BorrowedFd source);

  // KVM_SET_USER_MEMORY_REGION2, or the older call for a slot without guest_memfd. `guest_memfd` is
  // invalid for an ordinary slot; slot.hva is its mapping (for guest_memfd slots of confidential
  // types: the shared part).
  absl::Status SetMemslot(const Memslot& slot, BorrowedFd guest_memfd);
  absl::Status DeleteMemslot(uint32_t slot, uint32_t address_space);

  // KVM_SET_MEMORY_ATTRIBUTES, PRIVATE on or off. Not on a target before MOVE.
  absl::Status SetPrivate(uint64_t gpa, uint64_t size_bytes, bool is_private);

  // KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: blocks until every vCPU of both VMs is out of KVM_RUN. An error
  // does NOT prove that the source is alive (RFC v2 kills it before the vendor's part): ask it.
  // Reasons: MOVE_UNSUPPORTED, MOVE_MISMATCH (EINVAL), MOVE_BUSY (EBUSY), MOVE_BAD_SOURCE (EBADF),
  // MOVE_INTERRUPTED (EINTR), VM_DEAD (EIO).
  absl::Status MoveEncContextFrom(BorrowedFd source_vm);

  // KVM_MEMORY_ENCRYPT_OP for SEV and SEV-ES guests: init, launch start/update/finish.
  absl::Status LaunchSev(std::span<const MemoryRange> measured);

  absl::StatusOr<std::unique_ptr<Vcpu>> CreateVcpu(uint32_t index);

  // irqchips, PIT, clock; see vm_state.h for what is read and in which order.
  absl::Status SaveState(VmState& state) const;
  absl::Status RestoreState(const VmState& state);

  // A harmless VM ioctl (KVM_CHECK_EXTENSION): OK alive, FAILED_PRECONDITION / VM_DEAD for EIO. Means
  // "dead" only in the process that created the VM.
  absl::Status Probe() const;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VM_H_
