// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/move.h"

#include <sys/uio.h>

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "kvmglue/memory_layout.h"
#include "kvmglue/sim/binding_match.h"
#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/memslots.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

using RobustLock = std::unique_lock<RobustMutex>;

struct Move {
  const SimulatedKernelOptions& options;
  LocalVm& local;  // of the destination
  VmObject& destination;
  VmObject& source;

  VmType type() const { return destination.vm_type(); }
  // The types whose memory is handed over with the context.
  bool CarriesMemory() const { return type() == VmType::kSwProtected || type() == VmType::kTdx; }
  bool IsRfcV2() const { return options.rfc_v2_move && type() == VmType::kSwProtected; }
  bool CarriesRegisters() const { return source.sev.es_active || type() == VmType::kTdx; }
  // The smaller id first, everywhere: opposite moves cannot wait for each other.
  std::pair<VmObject&, VmObject&> InOrder() const {
    if (destination.id < source.id) return {destination, source};
    return {source, destination};
  }
};

bool IsMovable(const SimulatedKernelOptions& options, VmType type) {
  return type != VmType::kSnp && options.move_types.contains(type);
}

// Whether kvm_x86_ops.vm_move_enc_context_from is there: one for AMD's guests (and this project's
// patch), one for Intel's.
bool HasMoveOperation(const SimulatedKernelOptions& options, VmType destination) {
  if (destination == VmType::kTdx) return IsMovable(options, VmType::kTdx);
  return IsMovable(options, VmType::kSev) || IsMovable(options, VmType::kSevEs) ||
         IsMovable(options, VmType::kSwProtected);
}

// Both VMs are locked. What SEV's vm_move_enc_context_from checks before it waits for vCPUs.
int CheckSevContext(const Move& move) {
  if (move.source.type != move.destination.type) return EINVAL;
  // A dead source gave its context away.
  if (move.destination.sev.active || !move.source.sev.active || move.source.IsDead()) return EINVAL;
  // A VM of type default is one that KVM_SEV_INIT made a SEV guest.
  if (move.type() == VmType::kSnp) return EINVAL;
  const VmType guest = move.type() != VmType::kDefault ? move.type()
                       : move.source.sev.es_active     ? VmType::kSevEs
                                                       : VmType::kSev;
  return IsMovable(move.options, guest) ? 0 : EINVAL;
}

int CheckVcpus(const Move& move) {
  const bool counts_matter = (move.CarriesMemory() && !move.IsRfcV2()) || move.source.sev.es_active;
  if (counts_matter && move.source.vcpu_count != move.destination.vcpu_count) return EINVAL;
  if (!move.source.sev.es_active) return 0;
  for (uint32_t i = 0; i < move.source.vcpu_count; ++i) {
    if (!move.source.vcpus[i].state_protected) return EINVAL;
  }
  return 0;
}

// Writes what the destination is going to be where ApplyCommittedMove() finds it, and names the
// links that open with the commit. None of it counts until then.
void Stage(const Move& move, uint32_t number) {
  IncomingContext& incoming = move.destination.incoming;
  incoming.moves_sev = !move.CarriesMemory();
  incoming.moves_attributes = move.CarriesMemory();
  incoming.moves_registers = move.CarriesRegisters();
  if (incoming.moves_sev) incoming.sev = move.source.sev;
  if (incoming.moves_attributes) incoming.attributes = move.source.attributes.Get();
  if (incoming.moves_registers) {
    for (uint32_t i = 0; i < move.source.vcpu_count; ++i) {
      incoming.vcpus[i].registers = move.source.vcpus[i].registers.Get();
      incoming.vcpus[i].extended = move.source.vcpus[i].extended;
    }
  }
  for (const auto& slots : move.destination.slots.Get().slots) {
    for (const Slot& slot : slots) {
      if (slot.size == 0 || (slot.flags & kMemslotGuestMemfd) == 0) continue;
      GuestMemfdFile& file = move.destination.files[slot.file_index];
      if (!move.destination.IsAwake(file)) file.woken_by = number;
    }
  }
}

void Unstage(const Move& move, uint32_t number) {
  for (GuestMemfdFile& file : move.destination.files) {
    if (file.woken_by == number) file.woken_by = 0;
  }
}

// The instant at which the guest changes hands: source.dead = 1 and destination.committed = number.
// They lie in two objects, and a SIGKILL between two stores would leave two owners, or none. One
// system call that copies from one page into two places cannot be divided by a signal: the kernel
// looks at pending signals only where it would have to wait, and all three pages are there, because
// the locks in them were taken just now.
SysResult Commit(const Move& move, uint32_t number) {
  VmObject& destination = move.destination;
  destination.commit_words[0] = 1;
  destination.commit_words[1] = number;
  const iovec into[2] = {
      {.iov_base = &move.source.dead, .iov_len = sizeof(uint32_t)},
      {.iov_base = &destination.committed, .iov_len = sizeof(uint32_t)},
  };
  static_assert(offsetof(VmObject, dead) < kPageSize && offsetof(VmObject, committed) < kPageSize &&
                offsetof(VmObject, commit_words) + sizeof(uint32_t[2]) <= kPageSize);
  const SysResult copied = CaptureErrno(
      preadv(move.local.mapping().fd().raw(), into, 2, offsetof(VmObject, commit_words)));
  return copied.ok() ? Success() : copied;
}

// Both VMs, their vCPUs and their memory are locked, and every check has passed.
SysResult HandOver(const Move& move) {
  if (move.IsRfcV2() && move.options.rfc_v2_vendor_error != 0) {
    move.destination.attributes.Set(move.source.attributes.Get());
    __atomic_store_n(&move.source.dead, 1, __ATOMIC_RELEASE);
    move.local.UpdateView();
    return Failure(move.options.rfc_v2_vendor_error);
  }
  const uint32_t number = move.destination.committed + 1;
  Stage(move, number);
  const SysResult committed = Commit(move, number);
  if (!committed.ok()) {
    Unstage(move, number);
    return committed;
  }
  ApplyCommittedMove(move.destination);
  move.local.UpdateView();
  return Success();
}

SysResult MoveMemoryLocked(const Move& move) {
  const auto [first, second] = move.InOrder();
  const RobustLock first_memory(first.memory_lock);
  const RobustLock second_memory(second.memory_lock);
  const uint32_t address_spaces = move.IsRfcV2() ? 1 : kAddressSpaces;
  if (move.CarriesMemory() && !BindingsMatch(move.local, move.source, address_spaces)) {
    return Failure(EINVAL);
  }
  return HandOver(move);
}

void LockVcpus(VmObject& vm, std::vector<RobustLock>& locks) {
  for (uint32_t i = 0; i < vm.vcpu_count; ++i) locks.emplace_back(vm.vcpus[i].mutex);
}

// The caller holds both migration marks.
SysResult MoveMarked(const Move& move) {
  const auto [first, second] = move.InOrder();
  const RobustLock first_lock = LockVm(first);
  const RobustLock second_lock = LockVm(second);
  // The destination may have been moved away since the ioctl began.
  if (move.destination.IsDead()) return Failure(EIO);
  if (move.CarriesMemory()) {
    if (move.source.IsDead()) return Failure(EIO);
  } else if (const int error = CheckSevContext(move); error != 0) {
    return Failure(error);
  }

  std::vector<RobustLock> vcpus;
  if (!move.IsRfcV2()) {
    LockVcpus(first, vcpus);
    LockVcpus(second, vcpus);
  }
  if (const int error = CheckVcpus(move); error != 0) return Failure(error);
  return MoveMemoryLocked(move);
}

SysResult MoveFrom(const Move& move) {
  if (move.CarriesMemory()) {
    if (move.source.type != move.destination.type) return Failure(EINVAL);
    if (!IsMovable(move.options, move.type())) return Failure(EINVAL);
  }
  const RobustLock ours(move.destination.migration, std::try_to_lock);
  if (!ours.owns_lock()) return Failure(EBUSY);
  const RobustLock theirs(move.source.migration, std::try_to_lock);
  if (!theirs.owns_lock()) return Failure(EBUSY);
  return MoveMarked(move);
}

}  // namespace

SysResult MoveEncContextFrom(const SimulatedKernelOptions& options, LocalVm& destination,
                             BorrowedFd source_fd) {
  if (!HasMoveOperation(options, destination.object().vm_type())) return Failure(EINVAL);
  const FileTag tag = ReadTag(source_fd);
  if (tag.kind != FileKind::kVm) return Failure(EBADF);
  if (tag.vm_id == destination.object().id) return Failure(EINVAL);
  VmMapping source;
  const SysResult opened = VmMapping::Open(source_fd, source);
  if (!opened.ok()) return opened;
  return MoveFrom({options, destination, destination.object(), source.object()});
}

}  // namespace rehome::sim
