// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/simulated_kernel.h"

#include <sys/mman.h>

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/guest_memfd.h"
#include "kvmglue/sim/local_vm.h"
#include "kvmglue/sim/memory_attributes.h"
#include "kvmglue/sim/memslots.h"
#include "kvmglue/sim/move.h"
#include "kvmglue/sim/outcome.h"
#include "kvmglue/sim/probe.h"
#include "kvmglue/sim/sev.h"
#include "kvmglue/sim/vcpu_control.h"
#include "kvmglue/sim/vcpu_registers.h"
#include "kvmglue/sim/vcpu_run.h"
#include "kvmglue/sim/vm_devices.h"

namespace rehome {
namespace {

using sim::Failure;
using sim::FileKind;
using sim::FileTag;
using sim::LocalVm;
using sim::Success;

// What an ioctl takes by value.
unsigned long Number(void* argument) { return reinterpret_cast<unsigned long>(argument); }

SysResult MapFile(BorrowedFd fd, size_t length, off_t offset, void** address) {
  *address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd.raw(), offset);
  return *address == MAP_FAILED ? Failure(errno) : Success();
}

SysResult MapRunArea(BorrowedFd fd, uint32_t vcpu, size_t length, off_t offset, void** address) {
  if (offset < 0 || length > sim::kRunAreaBytes ||
      static_cast<uint64_t>(offset) > sim::kRunAreaBytes - length) {
    return Failure(EINVAL);
  }
  return MapFile(fd, length, static_cast<off_t>(sim::RunAreaOffset(vcpu)) + offset, address);
}

// KVM_CREATE_VCPU. EINVAL no such number, EEXIST taken. vCPUs of a TD are protected from the start
// (arch/x86/kvm/vmx/tdx.c, tdx_vcpu_create()).
SysResult CreateVcpu(LocalVm& vm, unsigned long id) {
  sim::VmObject& object = vm.object();
  const auto lock = sim::LockVm(object);
  if (id >= sim::kMaxVcpus) return Failure(EINVAL);
  const uint32_t index = object.vcpu_count;
  for (uint32_t i = 0; i < index; ++i) {
    if (object.vcpus[i].id == id) return Failure(EEXIST);
  }
  const SysResult opened = sim::ReopenInode(vm.mapping().fd(), /*close_on_exec=*/true);
  if (!opened.ok()) return opened;
  UniqueFd fd(static_cast<int>(opened.value));
  SysResult step =
      sim::WriteTag(fd.borrow(), {.kind = FileKind::kVcpu, .index = index, .vm_id = object.id});
  if (step.ok()) step = sim::SetMark(fd.borrow(), sim::kFirstVcpuMark + index);
  if (!step.ok()) return step;

  sim::VcpuObject& vcpu = object.vcpus[index];
  vcpu.mutex.Init();
  sim::ResetVcpu(vcpu, static_cast<uint32_t>(id), object.devices.irqchip_created != 0);
  vcpu.state_protected = object.vm_type() == VmType::kTdx ? 1 : 0;
  object.vcpu_count = index + 1;
  return Success(fd.Release());
}

}  // namespace

class SimulatedKernel::Impl {
 public:
  Impl(SimulatedKernelOptions options, SimulatedCpu& cpu)
      : options_(std::move(options)), cpu_(cpu) {}

  SysResult OpenKvm();
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument);
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address);

 private:
  SysResult SystemIoctl(unsigned long request, void* argument);
  SysResult CreateVm(unsigned long number);
  SysResult VmIoctl(LocalVm& vm, unsigned long request, void* argument);
  SysResult EnableCap(LocalVm& vm, void* argument);
  SysResult VcpuIoctl(LocalVm& vm, uint32_t index, unsigned long request, void* argument);
  bool IsLink(unsigned long request) const;

  const SimulatedKernelOptions options_;
  SimulatedCpu& cpu_;
  sim::VmTable vms_;
};

SysResult SimulatedKernel::Impl::OpenKvm() {
  vms_.DropClosed();
  const SysResult created = sim::CreateSealedMemfd("kvm", sim::kPageSize);
  if (!created.ok()) return created;
  UniqueFd fd(static_cast<int>(created.value));
  const SysResult tagged = sim::WriteTag(fd.borrow(), {.kind = FileKind::kSystem});
  return tagged.ok() ? Success(fd.Release()) : tagged;
}

SysResult SimulatedKernel::Impl::Ioctl(BorrowedFd fd, unsigned long request, void* argument) {
  const FileTag tag = sim::ReadTag(fd);
  switch (tag.kind) {
    case FileKind::kNotOpen:
      return Failure(EBADF);
    case FileKind::kForeign:
    case FileKind::kGuestMemfd:
      return Failure(ENOTTY);
    case FileKind::kSystem:
      return SystemIoctl(request, argument);
    case FileKind::kVm:
    case FileKind::kVcpu:
      break;
  }
  // A VM that this process did not create is not in its table; after fork(2) the child's copy of
  // the table has VMs of the parent. Both are the kernel's `kvm->mm != current->mm`.
  const std::shared_ptr<LocalVm> vm = vms_.Find(tag.vm_id);
  if (vm == nullptr || !vm->object().BelongsToCaller() || vm->object().IsDead()) {
    return Failure(EIO);
  }
  return tag.kind == FileKind::kVm ? VmIoctl(*vm, request, argument)
                                   : VcpuIoctl(*vm, tag.index, request, argument);
}

SysResult SimulatedKernel::Impl::SystemIoctl(unsigned long request, void* argument) {
  switch (request) {
    case KVM_GET_API_VERSION:
      return argument == nullptr ? Success(KVM_API_VERSION) : Failure(EINVAL);
    case KVM_CREATE_VM:
      return CreateVm(Number(argument));
    case KVM_CHECK_EXTENSION:
      return Success(sim::CheckExtension(options_, std::nullopt, Number(argument)));
    case KVM_GET_VCPU_MMAP_SIZE:
      return argument == nullptr ? Success(sim::kRunAreaBytes) : Failure(EINVAL);
    case KVM_GET_SUPPORTED_CPUID:
      return sim::GetSupportedCpuid(argument);
    case KVM_GET_MSR_INDEX_LIST:
      return sim::GetMsrIndexList(argument);
    default:
      return Failure(EINVAL);
  }
}

SysResult SimulatedKernel::Impl::CreateVm(unsigned long number) {
  const std::optional<VmType> type =
      number <= UINT32_MAX ? VmTypeFromNumber(static_cast<uint32_t>(number)) : std::nullopt;
  if (!type || !options_.vm_types.contains(*type)) return Failure(EINVAL);
  sim::VmMapping mapping;
  UniqueFd fd;
  SysResult step = sim::VmMapping::Create(*type, mapping, fd);
  if (step.ok()) step = vms_.Add(std::make_shared<LocalVm>(std::move(mapping)));
  return step.ok() ? Success(fd.Release()) : step;
}

bool SimulatedKernel::Impl::IsLink(unsigned long request) const {
  return options_.link_ioctl_number &&
         request == LinkGuestMemfdRequest(*options_.link_ioctl_number);
}

SysResult SimulatedKernel::Impl::VmIoctl(LocalVm& vm, unsigned long request, void* argument) {
  if (IsLink(request)) return sim::LinkGuestMemfd(vm, options_.gate, argument);
  switch (request) {
    case KVM_CHECK_EXTENSION:
      return Success(sim::CheckExtension(options_, vm.object().vm_type(), Number(argument)));
    case KVM_CREATE_VCPU:
      return CreateVcpu(vm, Number(argument));
    case KVM_CREATE_GUEST_MEMFD:
      return sim::CreateGuestMemfd(vm, argument);
    case KVM_SET_USER_MEMORY_REGION:
      return sim::SetUserMemoryRegion(options_, vm, argument);
    case KVM_SET_USER_MEMORY_REGION2:
      return sim::SetUserMemoryRegion2(options_, vm, argument);
    case KVM_SET_MEMORY_ATTRIBUTES:
      return sim::SetMemoryAttributes(options_, vm, argument);
    case KVM_ENABLE_CAP:
      return EnableCap(vm, argument);
    case KVM_MEMORY_ENCRYPT_OP:
      return sim::MemoryEncryptOp(options_, vm, argument);
    case KVM_MEMORY_ENCRYPT_REG_REGION:
      return sim::RegisterEncryptedRegion(vm, argument);
    case KVM_MEMORY_ENCRYPT_UNREG_REGION:
      return sim::UnregisterEncryptedRegion(vm, argument);
    default:
      return sim::VmDevicesIoctl(vm.object(), request, argument).value_or(Failure(ENOTTY));
  }
}

SysResult SimulatedKernel::Impl::EnableCap(LocalVm& vm, void* argument) {
  kvm_enable_cap cap;
  if (!sim::CopyIn(argument, cap)) return Failure(EFAULT);
  if (cap.flags != 0) return Failure(EINVAL);
  // The kernel takes the fd as an unsigned int.
  const BorrowedFd source(static_cast<int>(static_cast<uint32_t>(cap.args[0])));
  switch (cap.cap) {
    case KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM:
      return sim::MoveEncContextFrom(options_, vm, source);
    case KVM_CAP_VM_COPY_ENC_CONTEXT_FROM:
      return sim::CopyEncContextFrom(vm, source);
    default:
      return Failure(EINVAL);
  }
}

SysResult SimulatedKernel::Impl::VcpuIoctl(LocalVm& vm, uint32_t index, unsigned long request,
                                           void* argument) {
  sim::VcpuObject& vcpu = vm.object().vcpus[index];
  const std::lock_guard<sim::RobustMutex> guard(vcpu.mutex);
  // A move may have held the mutex.
  if (vm.object().IsDead()) return Failure(EIO);
  if (request == KVM_RUN) return sim::RunVcpu(vm, index, cpu_);
  if (const auto result = sim::VcpuRegistersIoctl(vcpu, request, argument)) return *result;
  const bool irqchip = vm.object().devices.irqchip_created != 0;
  return sim::VcpuControlIoctl(vcpu, irqchip, request, argument).value_or(Failure(EINVAL));
}

SysResult SimulatedKernel::Impl::MapShared(BorrowedFd fd, size_t length, off_t offset,
                                           void** address) {
  const FileTag tag = sim::ReadTag(fd);
  switch (tag.kind) {
    case FileKind::kNotOpen:
      return Failure(EBADF);
    case FileKind::kSystem:
    case FileKind::kVm:
      return Failure(ENODEV);
    case FileKind::kVcpu:
      return MapRunArea(fd, tag.index, length, offset, address);
    case FileKind::kGuestMemfd:
      return sim::MapGuestMemfd(vms_.Find(tag.vm_id).get(), fd, tag, length, offset, address);
    case FileKind::kForeign:
      break;
  }
  return MapFile(fd, length, offset, address);
}

SimulatedKernel::SimulatedKernel(SimulatedKernelOptions options, SimulatedCpu& cpu)
    : impl_(std::make_unique<Impl>(std::move(options), cpu)) {}

SimulatedKernel::~SimulatedKernel() = default;

SysResult SimulatedKernel::OpenKvm() { return impl_->OpenKvm(); }

SysResult SimulatedKernel::Ioctl(BorrowedFd fd, unsigned long request, void* argument) {
  return impl_->Ioctl(fd, request, argument);
}

SysResult SimulatedKernel::MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) {
  return impl_->MapShared(fd, length, offset, address);
}

}  // namespace rehome
