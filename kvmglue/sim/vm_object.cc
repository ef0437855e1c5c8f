// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vm_object.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "kvmglue/sim/file_tag.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kVmMagic = 0x4d565f4d49532d52;  // "R-SIM_VM"

// Takes the process's own description of an inode out of a SysResult that carries an fd.
UniqueFd TakeFd(const SysResult& result) { return UniqueFd(static_cast<int>(result.value)); }

}  // namespace

bool HasPrivateMemory(VmType type) {
  switch (type) {
    case VmType::kSwProtected:
    case VmType::kSnp:
    case VmType::kTdx:
      return true;
    case VmType::kDefault:
    case VmType::kSev:
    case VmType::kSevEs:
      break;
  }
  return false;
}

bool VmObject::IsAwake(const GuestMemfdFile& file) const {
  if (!file.gated) return true;
  return file.woken_by != 0 && file.woken_by <= __atomic_load_n(&committed, __ATOMIC_ACQUIRE);
}

VmMapping::VmMapping(VmMapping&& other) noexcept
    : fd_(std::move(other.fd_)), object_(std::exchange(other.object_, nullptr)) {}

VmMapping::~VmMapping() {
  if (object_ != nullptr) munmap(object_, kVmFileBytes);
}

SysResult VmMapping::Create(VmType type, VmMapping& mapping, UniqueFd& vm_fd) {
  const SysResult created = CreateSealedMemfd("kvm-vm", kVmFileBytes);
  if (!created.ok()) return created;
  UniqueFd fd = TakeFd(created);

  struct stat status;
  SysResult step = CaptureErrno(fstat(fd.borrow().raw(), &status));
  if (!step.ok()) return step;
  step = WriteTag(fd.borrow(), {.kind = FileKind::kVm, .vm_id = status.st_ino});
  if (step.ok()) step = SetMark(fd.borrow(), kVmMark);
  if (step.ok()) step = mapping.Map(fd.borrow());
  if (!step.ok()) return step;

  VmObject& vm = mapping.object();
  vm.id = status.st_ino;
  vm.layout_bytes = sizeof(VmObject);
  vm.type = static_cast<uint32_t>(type);
  vm.owner = CurrentAddressSpace();
  vm.lock.Init();
  vm.memory_lock.Init();
  vm.migration.Init();
  vm.magic = kVmMagic;
  vm_fd = std::move(fd);
  return {0, 0};
}

SysResult VmMapping::Open(BorrowedFd fd, VmMapping& mapping) {
  const SysResult mapped = mapping.Map(fd);
  if (!mapped.ok()) return mapped;
  const VmObject& vm = mapping.object();
  // Another build of the simulated kernel lays its objects out in another way.
  if (vm.magic != kVmMagic || vm.layout_bytes != sizeof(VmObject)) return {-1, EINVAL};
  return {0, 0};
}

SysResult VmMapping::Map(BorrowedFd fd) {
  const SysResult reopened = ReopenInode(fd, /*close_on_exec=*/true);
  if (!reopened.ok()) return reopened;
  fd_ = TakeFd(reopened);

  struct stat status;
  const SysResult step = CaptureErrno(fstat(fd_.borrow().raw(), &status));
  if (!step.ok()) return step;
  if (static_cast<uint64_t>(status.st_size) != kVmFileBytes) return {-1, EINVAL};
  void* address =
      mmap(nullptr, kVmFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.borrow().raw(), 0);
  if (address == MAP_FAILED) return {-1, errno};
  object_ = static_cast<VmObject*>(address);
  return {0, 0};
}

std::byte* VmMapping::run_area(uint32_t vcpu) const {
  return reinterpret_cast<std::byte*>(object_) + RunAreaOffset(vcpu);
}

bool VmMapping::IsOpenAnywhere() const { return IsMarked(fd(), kVmMark, 1 + kMaxVcpus); }

std::unique_lock<RobustMutex> LockVm(VmObject& vm) {
  std::unique_lock<RobustMutex> lock(vm.lock);
  ApplyCommittedMove(vm);
  return lock;
}

void ApplyCommittedMove(VmObject& vm) {
  if (vm.applied == vm.committed) return;
  const IncomingContext& incoming = vm.incoming;
  if (incoming.moves_sev) vm.sev = incoming.sev;
  if (incoming.moves_attributes) vm.attributes.Set(incoming.attributes);
  if (incoming.moves_registers) {
    for (uint32_t i = 0; i < vm.vcpu_count; ++i) {
      VcpuObject& vcpu = vm.vcpus[i];
      vcpu.registers.Set(incoming.vcpus[i].registers);
      vcpu.extended = incoming.vcpus[i].extended;
      vcpu.state_protected = 1;
    }
  }
  vm.applied = vm.committed;
}

}  // namespace rehome::sim
