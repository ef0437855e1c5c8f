// SPDX-License-Identifier: Apache-2.0
//
// struct kvm of the simulated kernel: one memfd per VM, mapped by whoever has its fd. VM fds and
// vCPU fds are open file descriptions of it; the kvm_run pages lie behind the object.
//
// A process that maps it may be killed anywhere. Hence: locks are robust, tables that others read
// change in one store, and what MOVE hands over is first staged in the destination and then
// committed by one system call (move.cc).
#ifndef REHOME_KVMGLUE_SIM_VM_OBJECT_H_
#define REHOME_KVMGLUE_SIM_VM_OBJECT_H_

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/address_space.h"
#include "kvmglue/sim/double_buffered.h"
#include "kvmglue/sim/memory_tables.h"
#include "kvmglue/sim/robust_mutex.h"
#include "kvmglue/sim/vcpu_object.h"
#include "kvmglue/sys_result.h"
#include "kvmglue/vm_type.h"

namespace rehome::sim {

// struct kvm_run, then the page that port I/O data goes through (KVM_PIO_PAGE_OFFSET 1), then the
// coalesced MMIO ring (KVM_COALESCED_MMIO_PAGE_OFFSET 2), as on x86.
inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kRunAreaBytes = 3 * kPageSize;
inline constexpr uint64_t kPortDataOffset = kPageSize;

// KVM_MEMORY_ENCRYPT_REG_REGION calls that one VM may have outstanding; the kernel has no bound.
inline constexpr uint32_t kMaxEncryptedRegions = 128;

// struct kvm_sev_info. Commands and states: sev.h.
struct SevState {
  uint32_t active;  // sev_guest()
  uint32_t es_active;
  uint32_t mirror;
  uint32_t launch_state;
  uint32_t policy;
  uint32_t handle;
  uint64_t measurement;
  uint32_t region_count;
  kvm_enc_region regions[kMaxEncryptedRegions];
};

struct VmDevices {
  uint32_t irqchip_created;
  uint32_t pit_created;
  kvm_irqchip chips[3];  // PIC master, PIC slave, IOAPIC
  kvm_pit_state2 pit;
  int64_t clock_offset_ns;  // kvmclock minus CLOCK_MONOTONIC
  uint64_t tss_address;     // 0: not set
  uint64_t identity_map_address;
};

// What MOVE gives to a destination, complete before the commit and applied after it.
struct IncomingContext {
  uint32_t moves_sev;
  uint32_t moves_attributes;
  uint32_t moves_registers;  // SEV-ES, TDX
  SevState sev;
  AttributeTable attributes;
  struct {
    VcpuRegisters registers;
    VcpuExtendedState extended;
  } vcpus[kMaxVcpus];
};

// kvm_arch_has_private_mem(): guest memory is split into private and shared by attributes.
bool HasPrivateMemory(VmType type);

struct VmObject {
  uint64_t magic;
  uint64_t id;  // inode number of the memfd: unique as long as anybody holds it open
  uint32_t layout_bytes;
  uint32_t type;  // VmType
  AddressSpaceId owner;

  // Order: lock, then vCPU mutexes, then memory_lock; of two VMs the smaller id first.
  RobustMutex lock;
  RobustMutex memory_lock;  // slots, attributes: the kernel's slots_lock
  RobustMutex migration;    // try_lock() only: migration_in_progress

  uint32_t dead;
  // A move is committed when `committed` becomes its number, and complete when `applied` follows.
  uint32_t committed;
  uint32_t applied;
  uint32_t commit_words[2];  // what the commit stores: 1 for `dead`, the move's number

  uint32_t vcpu_count;
  DoubleBuffered<SlotTable> slots;
  DoubleBuffered<AttributeTable> attributes;
  GuestMemfdFile files[kMaxGuestMemfdFiles];
  SevState sev;
  VmDevices devices;
  VcpuObject vcpus[kMaxVcpus];
  IncomingContext incoming;

  VmType vm_type() const { return static_cast<VmType>(type); }
  bool IsDead() const { return __atomic_load_n(&dead, __ATOMIC_ACQUIRE) != 0; }
  bool BelongsToCaller() const { return owner == CurrentAddressSpace(); }
  // A linked file that no MOVE has opened yet is not awake.
  bool IsAwake(const GuestMemfdFile& file) const;
};

inline constexpr uint64_t kRunAreaStart =
    (sizeof(VmObject) + kPageSize - 1) / kPageSize * kPageSize;
inline constexpr uint64_t kVmFileBytes = kRunAreaStart + kMaxVcpus * kRunAreaBytes;
constexpr uint64_t RunAreaOffset(uint32_t vcpu) { return kRunAreaStart + vcpu * kRunAreaBytes; }

// An own mapping of a VM object through an own open file description, so that neither keeps the
// caller's VM fd or vCPU fds alive. Move-only.
class VmMapping {
 public:
  VmMapping() = default;
  VmMapping(VmMapping&& other) noexcept;
  VmMapping& operator=(VmMapping&&) = delete;
  ~VmMapping();

  // A new VM of the calling address space; `*vm_fd` gets what KVM_CREATE_VM returns.
  static SysResult Create(VmType type, VmMapping& mapping, UniqueFd& vm_fd);
  // The VM behind a VM or vCPU fd.
  static SysResult Open(BorrowedFd fd, VmMapping& mapping);

  VmObject& object() const { return *object_; }
  std::byte* run_area(uint32_t vcpu) const;
  BorrowedFd fd() const { return fd_.borrow(); }
  // Whether the VM fd or a vCPU fd is still open in any process.
  bool IsOpenAnywhere() const;

 private:
  SysResult Map(BorrowedFd fd);

  UniqueFd fd_;
  VmObject* object_ = nullptr;
};

// Takes vm.lock, and finishes a move into `vm` whose caller was killed between commit and apply.
std::unique_lock<RobustMutex> LockVm(VmObject& vm);

// The second half of MOVE on the destination: repeatable, until vm.applied says that it is done.
// REQUIRES: vm.lock is held.
void ApplyCommittedMove(VmObject& vm);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_VM_OBJECT_H_
