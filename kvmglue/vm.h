// SPDX-License-Identifier: Apache-2.0
//
// A VM and its vCPUs, typed. Each method is one ioctl or a short fixed sequence; errno is
// translated here, once (errno_status.h). KVM accepts VM and vCPU ioctls only from the address
// space that created the VM (virt/kvm/kvm_main.c, kvm->mm != current->mm: EIO), so these objects
// belong to the VMM process; a daemon that received the fd of one can pass it on and compare it,
// nothing else.
//
// Reasons that any method may give: VM_DEAD (FAILED_PRECONDITION; EIO), FD_LIMIT, OUT_OF_MEMORY
// (RESOURCE_EXHAUSTED), BAD_FD (INVALID_ARGUMENT), KVM_FAILED (INTERNAL). An error leaves the VM as
// it was, except where a method says otherwise.
#ifndef REHOME_KVMGLUE_VM_H_
#define REHOME_KVMGLUE_VM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
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
  // KVM_CREATE_VM. FAILED_PRECONDITION / VM_TYPE_UNSUPPORTED (EINVAL), UNAVAILABLE /
  // KVM_UNAVAILABLE, FAILED_PRECONDITION / XSAVE_TOO_LARGE (more than kMaxXsaveBytes,
  // vcpu_state.h).
  static absl::StatusOr<std::unique_ptr<Vm>> Create(KvmSyscalls& kernel, VmType type,
                                                    const LinkAbi& link_abi);
  // How many vCPUs /dev/kvm allows a VM (KVM_CAP_MAX_VCPUS); asked without making one. UNAVAILABLE
  // / KVM_UNAVAILABLE.
  static absl::StatusOr<uint32_t> MaxVcpus(KvmSyscalls& kernel);
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;
  ~Vm();

  VmType type() const { return type_; }
  BorrowedFd fd() const { return fd_.borrow(); }

  // vCPUs move registers by KVM_CAP_SYNC_REGS where the kernel has it, unless told otherwise here.
  // For tests and measurements: the result is the same, the time is not. REQUIRES: no vCPU yet.
  void DisableSyncRegs();

  // KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2. Before vCPUs.
  // TSS and identity pages are KVM's own memslots: both sides must set the same addresses, or MOVE
  // finds different bindings. FAILED_PRECONDITION / IRQCHIP_EXISTS. After an error the VM has some
  // of the four and is good for nothing.
  absl::Status CreateIrqchip();

  // KVM_IRQ_LINE: the level of interrupt line `gsi`. The irqchip does not keep levels as a part of
  // its state: who drives a line tells a new VM. FAILED_PRECONDITION / IRQCHIP_MISSING.
  absl::Status SetIrqLine(uint32_t gsi, bool high);

  // KVM_IRQFD: from now on a write to `eventfd` is an edge on interrupt line `gsi`; what was
  // written before counts. An eventfd has one such line on the whole host, so the VM that the guest
  // leaves lets go first: UNAVAILABLE / IRQFD_BUSY (EBUSY; older kernels take it and deliver to the
  // first alone). FAILED_PRECONDITION / IRQCHIP_MISSING, INVALID_ARGUMENT / KVM_INVALID (not an
  // eventfd).
  absl::Status AssignIrqfd(BorrowedFd eventfd, uint32_t gsi);
  // When this returns every edge that was under way is in the irqchip, so the state that is saved
  // after it has them all. One that is not assigned is none to let go: OK.
  absl::Status DeassignIrqfd(BorrowedFd eventfd, uint32_t gsi);

  // KVM_IOEVENTFD: a write of exactly 4 bytes, whatever they are, to guest-physical `gpa` signals
  // `eventfd` and is no exit. ALREADY_EXISTS / IOEVENTFD_EXISTS if this VM has one there; two VMs
  // may have the same, which no kernel minds. INVALID_ARGUMENT / KVM_INVALID (not an eventfd),
  // RESOURCE_EXHAUSTED / IOEVENTFD_LIMIT (the kernel's 1000 places on the bus).
  absl::Status AssignIoeventfd(BorrowedFd eventfd, uint64_t gpa);
  // NOT_FOUND / IOEVENTFD_MISSING. The next write is an exit again.
  absl::Status DeassignIoeventfd(BorrowedFd eventfd, uint64_t gpa);

  // KVM_CREATE_GUEST_MEMFD; close-on-exec is set at once. INVALID_ARGUMENT / KVM_INVALID,
  // FAILED_PRECONDITION / GUEST_MEMFD_UNSUPPORTED.
  absl::StatusOr<UniqueFd> CreateGuestMemfd(uint64_t size_bytes, uint64_t flags);

  // KVM_LINK_GUEST_MEMFD: a new file of this VM on the inode behind `source`, close-on-exec.
  // FAILED_PRECONDITION / LINK_UNSUPPORTED (ENOTTY), INVALID_ARGUMENT / LINK_REFUSED (EINVAL: not a
  // guest_memfd, or already this VM's).
  absl::StatusOr<UniqueFd> LinkGuestMemfd(BorrowedFd source);

  // KVM_SET_USER_MEMORY_REGION2, or the older call for a slot without guest_memfd. `guest_memfd` is
  // invalid for an ordinary slot; slot.hva is its mapping (for guest_memfd slots of confidential
  // types: the shared part). INVALID_ARGUMENT / MEMSLOT_INVALID (EINVAL; also any change of a slot
  // with guest_memfd), ALREADY_EXISTS / MEMSLOT_OVERLAP.
  absl::Status SetMemslot(const Memslot& slot, BorrowedFd guest_memfd);
  absl::Status DeleteMemslot(uint32_t slot, uint32_t address_space);

  // KVM_SET_MEMORY_ATTRIBUTES, PRIVATE on or off. Not on a target before MOVE.
  // FAILED_PRECONDITION / MEMORY_ATTRIBUTES_UNSUPPORTED, INVALID_ARGUMENT / KVM_INVALID.
  absl::Status SetPrivate(uint64_t gpa, uint64_t size_bytes, bool is_private);

  // KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM: blocks until every vCPU of both VMs is out of KVM_RUN. An
  // error does NOT prove that the source is alive (RFC v2 kills it before the vendor's part): ask
  // it. Reasons: MOVE_UNSUPPORTED, MOVE_MISMATCH (EINVAL), MOVE_BUSY (EBUSY), MOVE_BAD_SOURCE
  // (EBADF), MOVE_INTERRUPTED (EINTR), VM_DEAD (EIO), MOVE_FAILED (anything else). EINVAL is told
  // apart by a second call with no source at all: a kernel that has the operation for this VM says
  // EBADF.
  absl::Status MoveEncContextFrom(BorrowedFd source_vm);

  // KVM_MEMORY_ENCRYPT_OP for SEV and SEV-ES guests. A target is neither initialised nor launched:
  // MOVE wants it plain. InitSev() comes before the first vCPU, LaunchSev() after memslots and
  // vCPUs are complete: it encrypts and measures `measured`, each range within one memslot, and
  // (SEV-ES) the registers. FAILED_PRECONDITION / SEV_UNSUPPORTED, INVALID_ARGUMENT /
  // SEV_LAUNCH_REFUSED, INTERNAL / SEV_LAUNCH_FAILED: the VM is good for nothing.
  absl::Status InitSev();
  absl::Status LaunchSev(std::span<const MemoryRange> measured);

  // Whether LAPICs have a timer with a deadline in TSC ticks (KVM_CAP_TSC_DEADLINE_TIMER); the
  // guest sees it if CPUID says so, AddTscDeadline().
  bool HasTscDeadline() const;
  // INVALID_ARGUMENT / KVM_INVALID, ALREADY_EXISTS / VCPU_EXISTS.
  absl::StatusOr<std::unique_ptr<Vcpu>> CreateVcpu(uint32_t index);

  // irqchips, PIT, clock; see vm_state_io.cc for the order. Save when all vCPUs have stopped,
  // restore before their states. INTERNAL / VM_STATE_SAVE_FAILED; INVALID_ARGUMENT /
  // VM_STATE_INVALID (nothing was changed) or VM_STATE_REFUSED, INTERNAL / VM_STATE_RESTORE_FAILED.
  absl::Status SaveState(VmState& state) const;
  absl::Status RestoreState(const VmState& state);

  // A harmless VM ioctl (KVM_CHECK_EXTENSION): OK alive, FAILED_PRECONDITION / VM_DEAD for EIO.
  // Means "dead" only in the process that created the VM.
  absl::Status Probe() const;

 private:
  Vm(KvmSyscalls& kernel, VmType type, const LinkAbi& link_abi, UniqueFd fd,
     std::shared_ptr<VcpuTraits> traits);

  absl::Status Call(KernelCall call, unsigned long request, void* argument,
                    std::string_view detail = "") const;
  absl::Status CallSev(uint32_t command, BorrowedFd sev, void* data, std::string_view name) const;
  absl::StatusOr<uint64_t> HvaOf(const MemoryRange& range) const;
  absl::Status EncryptMemory(BorrowedFd sev, std::span<const MemoryRange> measured);

  using SlotKey = std::pair<uint32_t, uint32_t>;  // address space, slot

  KvmSyscalls& kernel_;
  const VmType type_;
  const LinkAbi link_abi_;
  const UniqueFd fd_;
  const std::shared_ptr<VcpuTraits> traits_;
  bool sev_initialised_ = false;
  mutable std::mutex mutex_;
  std::map<SlotKey, Memslot> slots_;  // guarded by mutex_
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_VM_H_
