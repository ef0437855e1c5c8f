// SPDX-License-Identifier: Apache-2.0
//
// What a target must know to build the same VM: the CONFIG file of a migration, a sealed memfd.
#ifndef REHOME_VMM_REFERENCE_VM_CONFIG_H_
#define REHOME_VMM_REFERENCE_VM_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/vm_type.h"
#include "vmm/reference/device_config.h"

namespace rehome {

struct VmConfig {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint64_t ram_bytes = 0;
  // Of each vCPU: a struct kvm_cpuid2 with entries, as Vcpu::SetCpuid() takes it.
  std::vector<std::vector<std::byte>> cpuid;
  GuestKind guest = GuestKind::kPayload;
  std::vector<DeviceConfig> devices;  // at most kMaxDevices; of a Linux guest only

  friend bool operator==(const VmConfig&, const VmConfig&) = default;
};

// One vCPU's CPUID: KVM_MAX_CPUID_ENTRIES (256) of 40 bytes and a head of 8.
inline constexpr size_t kMaxCpuidBytes = 8 + 256 * 40;

// A memfd with the configuration, sealed against every change. RESOURCE_EXHAUSTED /
// CONFIG_TOO_LARGE beyond REHOME_MAX_CONFIG, or OS_CALL_FAILED.
absl::StatusOr<UniqueFd> WriteVmConfig(const VmConfig& config);

// Reads what somebody else wrote. INVALID_ARGUMENT / CONFIG_NOT_SEALED (not a memfd that can no
// longer change), CONFIG_TOO_LARGE, STATE_MALFORMED; UNIMPLEMENTED / DEVICE_UNKNOWN for a device of
// a kind that this VMM does not have.
absl::StatusOr<VmConfig> ReadVmConfig(BorrowedFd fd);

// The bytes of the file, for tests.
absl::StatusOr<std::vector<std::byte>> EncodeVmConfig(const VmConfig& config);
absl::StatusOr<VmConfig> DecodeVmConfig(const std::vector<std::byte>& bytes);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VM_CONFIG_H_
