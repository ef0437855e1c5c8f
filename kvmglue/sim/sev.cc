// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/sev.h"

#include <mutex>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {
namespace {

// Guest states of the SEV API (include/uapi/linux/psp-sev.h names the errors).
enum LaunchState : uint32_t { kUninitialized = 0, kUpdating = 1, kSecret = 2, kRunning = 3 };
constexpr uint32_t kInvalidGuestState = 2;
constexpr uint32_t kInvalidLength = 4;
constexpr uint32_t kMeasureBytes = 48;
constexpr uint64_t kFnvOffset = 14695981039346656037u;
constexpr uint64_t kFnvPrime = 1099511628211u;

// One command of a VM whose lock is held.
struct Command {
  VmObject& vm;
  kvm_sev_cmd& header;

  void* data() const { return reinterpret_cast<void*>(header.data); }
  SysResult FirmwareError(uint32_t error) const {
    header.error = error;
    return Failure(EIO);
  }
};

SysResult Init(const Command& command, bool es, bool typed) {
  VmObject& vm = command.vm;
  const bool sev_type = vm.vm_type() == VmType::kSev || vm.vm_type() == VmType::kSevEs;
  // KVM_SEV_INIT and KVM_SEV_ES_INIT are for VMs of type default, KVM_SEV_INIT2 for the typed ones.
  if (typed ? !sev_type : vm.vm_type() != VmType::kDefault) return Failure(EINVAL);
  if (vm.vcpu_count != 0 || vm.sev.active) return Failure(EINVAL);
  if (typed) {
    kvm_sev_init request;
    if (!CopyIn(command.data(), request)) return Failure(EFAULT);
    if (request.flags != 0) return Failure(EINVAL);
  }
  vm.sev = {};
  vm.sev.es_active = es ? 1 : 0;
  vm.sev.active = 1;
  return Success();
}

SysResult LaunchStart(const Command& command) {
  SevState& sev = command.vm.sev;
  kvm_sev_launch_start request;
  if (!CopyIn(command.data(), request)) return Failure(EFAULT);
  if (sev.launch_state != kUninitialized) return command.FirmwareError(kInvalidGuestState);
  sev.policy = request.policy;
  sev.handle = static_cast<uint32_t>(command.vm.id);
  sev.measurement = kFnvOffset;
  sev.launch_state = kUpdating;
  request.handle = sev.handle;
  return CopyOutResult(command.data(), request);
}

SysResult LaunchUpdateData(const Command& command) {
  SevState& sev = command.vm.sev;
  kvm_sev_launch_update_data request;
  if (!CopyIn(command.data(), request)) return Failure(EFAULT);
  if (sev.launch_state != kUpdating) return command.FirmwareError(kInvalidGuestState);
  const auto* bytes = reinterpret_cast<const uint8_t*>(request.uaddr);
  if (!IsHostRangeMapped(bytes, request.len)) return Failure(EFAULT);
  for (uint32_t i = 0; i < request.len; ++i) {
    sev.measurement = (sev.measurement ^ bytes[i]) * kFnvPrime;
  }
  return Success();
}

SysResult LaunchUpdateVmsa(const Command& command) {
  VmObject& vm = command.vm;
  if (!vm.sev.es_active) return Failure(ENOTTY);
  if (vm.sev.launch_state != kUpdating) return command.FirmwareError(kInvalidGuestState);
  for (uint32_t i = 0; i < vm.vcpu_count; ++i) {
    std::lock_guard<RobustMutex> guard(vm.vcpus[i].mutex);
    vm.vcpus[i].state_protected = 1;
  }
  return Success();
}

SysResult LaunchMeasure(const Command& command) {
  SevState& sev = command.vm.sev;
  kvm_sev_launch_measure request;
  if (!CopyIn(command.data(), request)) return Failure(EFAULT);
  const uint32_t offered = request.len;
  request.len = kMeasureBytes;
  if (offered < kMeasureBytes) {
    // Asking for the length is an error of the firmware, too, with the answer in `len`.
    if (!CopyOut(command.data(), request)) return Failure(EFAULT);
    return command.FirmwareError(kInvalidLength);
  }
  if (sev.launch_state != kUpdating) return command.FirmwareError(kInvalidGuestState);
  uint8_t blob[kMeasureBytes] = {};
  std::memcpy(blob, &sev.measurement, sizeof(sev.measurement));
  if (!CopyOut(reinterpret_cast<void*>(request.uaddr), blob)) return Failure(EFAULT);
  sev.launch_state = kSecret;
  return CopyOutResult(command.data(), request);
}

SysResult LaunchFinish(const Command& command) {
  SevState& sev = command.vm.sev;
  if (sev.launch_state != kSecret) return command.FirmwareError(kInvalidGuestState);
  sev.launch_state = kRunning;
  return Success();
}

SysResult GuestStatus(const Command& command) {
  const SevState& sev = command.vm.sev;
  const kvm_sev_guest_status status = {sev.handle, sev.policy, sev.launch_state};
  return CopyOutResult(command.data(), status);
}

// sev_guest() is a precondition of everything but the INITs.
SysResult RunCommand(const Command& command) {
  switch (command.header.id) {
    case KVM_SEV_INIT:
      return Init(command, /*es=*/false, /*typed=*/false);
    case KVM_SEV_ES_INIT:
      return Init(command, /*es=*/true, /*typed=*/false);
    case KVM_SEV_INIT2:
      return Init(command, command.vm.vm_type() == VmType::kSevEs, /*typed=*/true);
    default:
      break;
  }
  const bool guest = command.vm.sev.active != 0;
  switch (command.header.id) {
    case KVM_SEV_LAUNCH_START:
      return guest ? LaunchStart(command) : Failure(ENOTTY);
    case KVM_SEV_LAUNCH_UPDATE_DATA:
      return guest ? LaunchUpdateData(command) : Failure(ENOTTY);
    case KVM_SEV_LAUNCH_UPDATE_VMSA:
      return guest ? LaunchUpdateVmsa(command) : Failure(ENOTTY);
    case KVM_SEV_LAUNCH_MEASURE:
      return guest ? LaunchMeasure(command) : Failure(ENOTTY);
    case KVM_SEV_LAUNCH_FINISH:
      return guest ? LaunchFinish(command) : Failure(ENOTTY);
    case KVM_SEV_GUEST_STATUS:
      return guest ? GuestStatus(command) : Failure(ENOTTY);
    default:
      return Failure(EINVAL);
  }
}

bool MirrorMayRun(uint32_t id) {
  return id == KVM_SEV_LAUNCH_UPDATE_VMSA || id == KVM_SEV_GUEST_STATUS;
}

}  // namespace

SysResult MemoryEncryptOp(const SimulatedKernelOptions& options, LocalVm& vm, void* argument) {
  if (!options.vm_types.contains(VmType::kSev) && !options.vm_types.contains(VmType::kSevEs)) {
    return Failure(ENOTTY);
  }
  if (argument == nullptr) return Success();  // "is SEV there?"
  kvm_sev_cmd header;
  CopyIn(argument, header);
  const auto lock = LockVm(vm.object());
  if (vm.object().sev.mirror && !MirrorMayRun(header.id)) return Failure(EINVAL);
  const SysResult result = RunCommand({vm.object(), header});
  CopyOut(argument, header);
  return result;
}

SysResult RegisterEncryptedRegion(LocalVm& vm, void* argument) {
  kvm_enc_region region;
  if (!CopyIn(argument, region)) return Failure(EFAULT);
  const auto lock = LockVm(vm.object());
  SevState& sev = vm.object().sev;
  if (!sev.active) return Failure(ENOTTY);
  if (sev.mirror) return Failure(EINVAL);
  if (!IsHostRangeMapped(reinterpret_cast<const void*>(region.addr), region.size) ||
      sev.region_count == kMaxEncryptedRegions) {
    return Failure(ENOMEM);
  }
  sev.regions[sev.region_count++] = region;
  return Success();
}

SysResult UnregisterEncryptedRegion(LocalVm& vm, void* argument) {
  kvm_enc_region region;
  if (!CopyIn(argument, region)) return Failure(EFAULT);
  const auto lock = LockVm(vm.object());
  SevState& sev = vm.object().sev;
  if (sev.mirror) return Failure(EINVAL);
  if (!sev.active) return Failure(ENOTTY);
  for (uint32_t i = 0; i < sev.region_count; ++i) {
    if (sev.regions[i].addr != region.addr || sev.regions[i].size != region.size) continue;
    sev.regions[i] = sev.regions[--sev.region_count];
    return Success();
  }
  return Failure(EINVAL);
}

SysResult CopyEncContextFrom(LocalVm& vm, BorrowedFd source_fd) {
  const FileTag tag = ReadTag(source_fd);
  if (tag.kind != FileKind::kVm) return Failure(EBADF);
  VmObject& mirror = vm.object();
  if (tag.vm_id == mirror.id) return Failure(EINVAL);
  VmMapping mapping;
  const SysResult opened = VmMapping::Open(source_fd, mapping);
  if (!opened.ok()) return opened;
  VmObject& source = mapping.object();

  const std::unique_lock<RobustMutex> ours(mirror.migration, std::try_to_lock);
  if (!ours.owns_lock()) return Failure(EBUSY);
  const std::unique_lock<RobustMutex> theirs(source.migration, std::try_to_lock);
  if (!theirs.owns_lock()) return Failure(EBUSY);
  const auto first = LockVm(mirror.id < source.id ? mirror : source);
  const auto second = LockVm(mirror.id < source.id ? source : mirror);
  if (mirror.sev.active || mirror.vcpu_count != 0) return Failure(EINVAL);
  if (source.IsDead() || !source.sev.active || source.sev.mirror) return Failure(EINVAL);
  if (source.vm_type() == VmType::kSnp) return Failure(EINVAL);
  SevState sev = source.sev;
  sev.mirror = 1;
  mirror.sev = sev;
  return Success();
}

int SevEntryError(const VmObject& vm, uint32_t vcpu) {
  const bool needs_asid = vm.vm_type() == VmType::kSev || vm.vm_type() == VmType::kSevEs;
  if (needs_asid && !vm.sev.active) return EINVAL;
  return vm.sev.es_active && !vm.vcpus[vcpu].state_protected ? EINVAL : 0;
}

}  // namespace rehome::sim
