// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vm_devices.h"

#include <time.h>
#include <x86intrin.h>

#include "kvmglue/sim/outcome.h"
#include "kvmglue/sim/tsc.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kMaxTssAddress = uint32_t(-3 * int(kPageSize));

int64_t Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

SysResult SetTssAddress(VmObject& vm, void* argument) {
  const auto address = reinterpret_cast<uint64_t>(argument);
  if (address > kMaxTssAddress) return Failure(EINVAL);
  vm.devices.tss_address = address;
  return Success();
}

SysResult SetIdentityMap(VmObject& vm, void* argument) {
  uint64_t address = 0;
  if (!CopyIn(argument, address)) return Failure(EFAULT);
  if (vm.vcpu_count != 0) return Failure(EINVAL);
  vm.devices.identity_map_address = address;
  return Success();
}

SysResult CreateIrqchip(VmObject& vm) {
  if (vm.devices.irqchip_created) return Failure(EEXIST);
  if (vm.vcpu_count != 0) return Failure(EINVAL);
  for (uint32_t i = 0; i < std::size(vm.devices.chips); ++i) vm.devices.chips[i].chip_id = i;
  vm.devices.irqchip_created = 1;
  return Success();
}

SysResult CreatePit(VmObject& vm, void* argument) {
  kvm_pit_config config;
  if (!CopyIn(argument, config)) return Failure(EFAULT);
  if (vm.devices.pit_created) return Failure(EEXIST);
  if (!vm.devices.irqchip_created) return Failure(ENOENT);
  vm.devices.pit_created = 1;
  return Success();
}

SysResult Irqchip(VmObject& vm, bool set, void* argument) {
  kvm_irqchip chip;
  if (!CopyIn(argument, chip)) return Failure(EFAULT);
  if (!vm.devices.irqchip_created) return Failure(ENXIO);
  if (chip.chip_id >= std::size(vm.devices.chips)) return Failure(EINVAL);
  if (!set) return CopyOutResult(argument, vm.devices.chips[chip.chip_id]);
  vm.devices.chips[chip.chip_id] = chip;
  return Success();
}

SysResult Pit(VmObject& vm, bool set, void* argument) {
  if (!vm.devices.pit_created) return Failure(ENXIO);
  if (!set) return CopyOutResult(argument, vm.devices.pit);
  return CopyIn(argument, vm.devices.pit) ? Success() : Failure(EFAULT);
}

SysResult GetClock(const VmObject& vm, void* argument) {
  kvm_clock_data clock = {};
  clock.clock = static_cast<uint64_t>(Now(CLOCK_MONOTONIC) + vm.devices.clock_offset_ns);
  clock.flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
  clock.realtime = static_cast<uint64_t>(Now(CLOCK_REALTIME));
  clock.host_tsc = __rdtsc();
  return CopyOutResult(argument, clock);
}

SysResult SetClock(VmObject& vm, void* argument) {
  kvm_clock_data clock;
  if (!CopyIn(argument, clock)) return Failure(EFAULT);
  if ((clock.flags & ~uint32_t{KVM_CLOCK_REALTIME}) != 0) return Failure(EINVAL);
  int64_t value = static_cast<int64_t>(clock.clock);
  if ((clock.flags & KVM_CLOCK_REALTIME) != 0) {
    // kvm_vm_ioctl_set_clock(): time that has passed since counts, but never backwards.
    const int64_t passed = Now(CLOCK_REALTIME) - static_cast<int64_t>(clock.realtime);
    if (passed > 0) value += passed;
  }
  vm.devices.clock_offset_ns = value - Now(CLOCK_MONOTONIC);
  return Success();
}

bool IsDevicesRequest(unsigned long request) {
  switch (request) {
    case KVM_SET_TSS_ADDR:
    case KVM_SET_IDENTITY_MAP_ADDR:
    case KVM_CREATE_IRQCHIP:
    case KVM_CREATE_PIT2:
    case KVM_GET_IRQCHIP:
    case KVM_SET_IRQCHIP:
    case KVM_GET_PIT2:
    case KVM_SET_PIT2:
    case KVM_GET_CLOCK:
    case KVM_SET_CLOCK:
    case KVM_GET_TSC_KHZ:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<SysResult> VmDevicesIoctl(VmObject& vm, unsigned long request, void* argument) {
  if (!IsDevicesRequest(request)) return std::nullopt;
  const auto lock = LockVm(vm);
  switch (request) {
    case KVM_SET_TSS_ADDR:
      return SetTssAddress(vm, argument);
    case KVM_SET_IDENTITY_MAP_ADDR:
      return SetIdentityMap(vm, argument);
    case KVM_CREATE_IRQCHIP:
      return CreateIrqchip(vm);
    case KVM_CREATE_PIT2:
      return CreatePit(vm, argument);
    case KVM_GET_IRQCHIP:
      return Irqchip(vm, /*set=*/false, argument);
    case KVM_SET_IRQCHIP:
      return Irqchip(vm, /*set=*/true, argument);
    case KVM_GET_PIT2:
      return Pit(vm, /*set=*/false, argument);
    case KVM_SET_PIT2:
      return Pit(vm, /*set=*/true, argument);
    case KVM_GET_CLOCK:
      return GetClock(vm, argument);
    case KVM_SET_CLOCK:
      return SetClock(vm, argument);
    default:
      return Success(HostTscKhz());
  }
}

}  // namespace rehome::sim
