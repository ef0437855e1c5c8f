// SPDX-License-Identifier: Apache-2.0
//
// Launching a SEV or SEV-ES guest (Documentation/virt/kvm/x86/amd-memory-encryption.rst). Written
// after that page and tools/testing/selftests/kvm/lib/x86/sev.c, and run on the simulated kernel
// only.
#include <fcntl.h>

#include "absl/strings/str_format.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

// SEV API specification, "Guest Policy": no debugging; encrypted register state.
constexpr uint32_t kPolicyNoDebug = 1u << 0;
constexpr uint32_t kPolicyEncryptedState = 1u << 2;
constexpr uint32_t kMeasurementBytes = 256;  // more than the firmware's 48

// Launch commands go to the firmware by way of this device's fd. Without it (no SEV; the simulated
// kernel) the command itself gives the error, if it minds.
UniqueFd OpenSevDevice() { return UniqueFd(open("/dev/sev", O_RDWR | O_CLOEXEC)); }

}  // namespace

absl::Status Vm::CallSev(uint32_t command, BorrowedFd sev, void* data,
                         std::string_view name) const {
  kvm_sev_cmd call = {};
  call.id = command;
  call.data = reinterpret_cast<uint64_t>(data);
  call.sev_fd = static_cast<uint32_t>(sev.raw());
  const SysResult result = kernel_.Ioctl(fd(), KVM_MEMORY_ENCRYPT_OP, &call);
  if (result.ok()) return absl::OkStatus();
  return ErrnoStatus(KernelCall::kMemoryEncryptOp, result.error,
                     absl::StrFormat("%s, firmware error %#x",
                                     absl::string_view(name.data(), name.size()), call.error));
}

absl::Status Vm::InitSev() {
  kvm_sev_init init = {};
  absl::Status status = CallSev(KVM_SEV_INIT2, BorrowedFd(), &init, "KVM_SEV_INIT2");
  if (status.ok()) sev_initialised_ = true;
  return status;
}

absl::Status Vm::LaunchSev(std::span<const MemoryRange> measured) {
  if (!sev_initialised_) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "SEV_LAUNCH_REFUSED",
                      "InitSev() comes first");
  }
  const UniqueFd sev = OpenSevDevice();
  kvm_sev_launch_start start = {};
  start.policy = kPolicyNoDebug | (type_ == VmType::kSevEs ? kPolicyEncryptedState : 0);
  absl::Status status = CallSev(KVM_SEV_LAUNCH_START, sev.borrow(), &start, "KVM_SEV_LAUNCH_START");
  if (!status.ok()) return status;
  if (status = EncryptMemory(sev.borrow(), measured); !status.ok()) return status;
  if (type_ == VmType::kSevEs) {
    status =
        CallSev(KVM_SEV_LAUNCH_UPDATE_VMSA, sev.borrow(), nullptr, "KVM_SEV_LAUNCH_UPDATE_VMSA");
    if (!status.ok()) return status;
  }
  uint8_t measurement[kMeasurementBytes] = {};
  kvm_sev_launch_measure measure = {};
  measure.uaddr = reinterpret_cast<uint64_t>(measurement);
  measure.len = sizeof(measurement);
  status = CallSev(KVM_SEV_LAUNCH_MEASURE, sev.borrow(), &measure, "KVM_SEV_LAUNCH_MEASURE");
  if (!status.ok()) return status;
  return CallSev(KVM_SEV_LAUNCH_FINISH, sev.borrow(), nullptr, "KVM_SEV_LAUNCH_FINISH");
}

// Registering pins the pages: their ciphertext depends on the physical address, so they must not
// move.
absl::Status Vm::EncryptMemory(BorrowedFd sev, std::span<const MemoryRange> measured) {
  for (const MemoryRange& range : measured) {
    const absl::StatusOr<uint64_t> hva = HvaOf(range);
    if (!hva.ok()) return hva.status();
    kvm_enc_region region = {.addr = *hva, .size = range.size_bytes};
    absl::Status status =
        Call(KernelCall::kRegisterEncryptedRegion, KVM_MEMORY_ENCRYPT_REG_REGION, &region);
    if (!status.ok()) return status;
    kvm_sev_launch_update_data update = {};
    update.uaddr = *hva;
    update.len = static_cast<uint32_t>(range.size_bytes);
    status = CallSev(KVM_SEV_LAUNCH_UPDATE_DATA, sev, &update, "KVM_SEV_LAUNCH_UPDATE_DATA");
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Vm::HvaOf(const MemoryRange& range) const {
  constexpr uint64_t kMaxUpdateBytes = UINT32_MAX;  // kvm_sev_launch_update_data.len
  const std::lock_guard lock(mutex_);
  for (const auto& [key, slot] : slots_) {
    const bool starts_in = range.gpa >= slot.gpa && range.gpa - slot.gpa < slot.size_bytes;
    if (key.first != 0 || !starts_in) continue;
    const uint64_t offset = range.gpa - slot.gpa;
    if (range.size_bytes <= slot.size_bytes - offset && range.size_bytes <= kMaxUpdateBytes) {
      return slot.hva + offset;
    }
  }
  return MakeStatus(absl::StatusCode::kInvalidArgument, "SEV_LAUNCH_REFUSED",
                    absl::StrFormat("gpa %#x, %#x bytes: not within one memslot, or 4 GiB",
                                    range.gpa, range.size_bytes));
}

}  // namespace rehome
