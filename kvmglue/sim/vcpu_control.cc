// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_control.h"

#include <x86intrin.h>

#include <algorithm>
#include <cstring>

#include "kvmglue/sim/outcome.h"
#include "kvmglue/sim/tsc.h"

namespace rehome::sim {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrKvmclock = 0x12;
constexpr uint32_t kMsrKvmclockNew = 0x4b564d01;
// MAX_IO_MSRS of arch/x86/kvm/x86.c.
constexpr uint32_t kMaxMsrs = 256;

uint64_t* FindMsr(VcpuControl& control, uint32_t index) {
  // The two names of the register that turns kvmclock on.
  if (index == kMsrKvmclock) index = kMsrKvmclockNew;
  const auto* found = std::find(kMsrIndices.begin(), kMsrIndices.end(), index);
  return found == kMsrIndices.end() ? nullptr : &control.msrs[found - kMsrIndices.begin()];
}

bool GetMsr(VcpuControl& control, kvm_msr_entry& entry) {
  const uint64_t* value = FindMsr(control, entry.index);
  if (value == nullptr) return false;
  entry.data = entry.index == kMsrTsc ? __rdtsc() + control.tsc_offset : *value;
  return true;
}

bool SetMsr(VcpuControl& control, kvm_msr_entry& entry) {
  uint64_t* value = FindMsr(control, entry.index);
  if (value == nullptr) return false;
  if (entry.index == kMsrTsc) {
    control.tsc_offset = static_cast<int64_t>(entry.data - __rdtsc());
  } else {
    *value = entry.data;
  }
  return true;
}

// Both directions; like the kernel it stops at the first MSR that it does not know.
SysResult AccessMsrs(VcpuControl& control, void* argument,
                     bool (*access)(VcpuControl&, kvm_msr_entry&)) {
  kvm_msrs header;
  if (!CopyIn(argument, header)) return Failure(EFAULT);
  if (header.nmsrs >= kMaxMsrs) return Failure(E2BIG);
  auto* entries = static_cast<kvm_msrs*>(argument)->entries;
  uint32_t done = 0;
  while (done < header.nmsrs && access(control, entries[done])) ++done;
  return Success(done);
}

SysResult SetMpState(VcpuControl& control, bool irqchip, void* argument) {
  kvm_mp_state state;
  if (!CopyIn(argument, state)) return Failure(EFAULT);
  if (state.mp_state > KVM_MP_STATE_SIPI_RECEIVED) return Failure(EINVAL);
  if (!irqchip && state.mp_state != KVM_MP_STATE_RUNNABLE) return Failure(EINVAL);
  control.mp_state = state;
  return Success();
}

SysResult SetEvents(VcpuControl& control, void* argument) {
  constexpr uint32_t kKnown = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                              KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
                              KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  kvm_vcpu_events events;
  if (!CopyIn(argument, events)) return Failure(EFAULT);
  if ((events.flags & ~kKnown) != 0) return Failure(EINVAL);
  control.events = events;
  return Success();
}

SysResult SetCpuid(VcpuControl& control, void* argument) {
  kvm_cpuid2 header;
  if (!CopyIn(argument, header)) return Failure(EFAULT);
  if (header.nent > kMaxCpuidEntries) return Failure(E2BIG);
  const auto* entries = static_cast<const kvm_cpuid2*>(argument)->entries;
  const size_t bytes = header.nent * sizeof(kvm_cpuid_entry2);
  if (control.has_run) {
    // kvm_set_cpuid(): after the first KVM_RUN only what is there already.
    const bool same =
        header.nent == control.cpuid_count && std::memcmp(control.cpuid, entries, bytes) == 0;
    return same ? Success() : Failure(EINVAL);
  }
  std::memcpy(control.cpuid, entries, bytes);
  control.cpuid_count = header.nent;
  return Success();
}

SysResult GetCpuid(const VcpuControl& control, void* argument) {
  kvm_cpuid2 header;
  if (!CopyIn(argument, header)) return Failure(EFAULT);
  const bool fits = header.nent >= control.cpuid_count;
  header.nent = control.cpuid_count;
  CopyOut(argument, header);
  if (!fits) return Failure(E2BIG);
  std::memcpy(static_cast<kvm_cpuid2*>(argument)->entries, control.cpuid,
              control.cpuid_count * sizeof(kvm_cpuid_entry2));
  return Success();
}

SysResult DeviceAttribute(VcpuControl& control, unsigned long request, void* argument) {
  kvm_device_attr attribute;
  if (!CopyIn(argument, attribute)) return Failure(EFAULT);
  if (attribute.group != KVM_VCPU_TSC_CTRL || attribute.attr != KVM_VCPU_TSC_OFFSET) {
    return Failure(ENXIO);
  }
  void* value = reinterpret_cast<void*>(attribute.addr);
  switch (request) {
    case KVM_GET_DEVICE_ATTR:
      return CopyOutResult(value, control.tsc_offset);
    case KVM_SET_DEVICE_ATTR:
      return CopyIn(value, control.tsc_offset) ? Success() : Failure(EFAULT);
    default:
      return Success();
  }
}

SysResult KvmclockControl(VcpuControl& control) {
  const bool enabled = (*FindMsr(control, kMsrKvmclockNew) & 1) != 0;
  return enabled ? Success() : Failure(EINVAL);
}

SysResult SetTscKhz(VcpuControl& control, void* argument) {
  const auto khz = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(argument));
  control.tsc_khz = khz;
  return Success();
}

SysResult Lapic(VcpuControl& control, bool irqchip, bool set, void* argument) {
  if (!irqchip) return Failure(EINVAL);
  if (set) return CopyIn(argument, control.lapic) ? Success() : Failure(EFAULT);
  return CopyOutResult(argument, control.lapic);
}

}  // namespace

std::optional<SysResult> VcpuControlIoctl(VcpuObject& vcpu, bool irqchip, unsigned long request,
                                          void* argument) {
  VcpuControl& control = vcpu.control;
  switch (request) {
    case KVM_GET_MSRS:
      return AccessMsrs(control, argument, GetMsr);
    case KVM_SET_MSRS:
      return AccessMsrs(control, argument, SetMsr);
    case KVM_GET_LAPIC:
      return Lapic(control, irqchip, /*set=*/false, argument);
    case KVM_SET_LAPIC:
      return Lapic(control, irqchip, /*set=*/true, argument);
    case KVM_GET_MP_STATE:
      return CopyOutResult(argument, control.mp_state);
    case KVM_SET_MP_STATE:
      return SetMpState(control, irqchip, argument);
    case KVM_GET_VCPU_EVENTS:
      return CopyOutResult(argument, control.events);
    case KVM_SET_VCPU_EVENTS:
      return SetEvents(control, argument);
    case KVM_SET_CPUID2:
      return SetCpuid(control, argument);
    case KVM_GET_CPUID2:
      return GetCpuid(control, argument);
    case KVM_HAS_DEVICE_ATTR:
    case KVM_GET_DEVICE_ATTR:
    case KVM_SET_DEVICE_ATTR:
      return DeviceAttribute(control, request, argument);
    case KVM_KVMCLOCK_CTRL:
      return KvmclockControl(control);
    case KVM_GET_TSC_KHZ:
      return Success(control.tsc_khz != 0 ? control.tsc_khz : HostTscKhz());
    case KVM_SET_TSC_KHZ:
      return SetTscKhz(control, argument);
    default:
      return std::nullopt;
  }
}

}  // namespace rehome::sim
