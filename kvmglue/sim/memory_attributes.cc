// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_attributes.h"

#include <algorithm>
#include <mutex>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/outcome.h"

namespace rehome::sim {

uint64_t SupportedAttributes(VmType type) {
  return HasPrivateMemory(type) ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
}

SysResult SetMemoryAttributes(const SimulatedKernelOptions& options, LocalVm& vm, void* argument) {
  if (std::none_of(options.vm_types.begin(), options.vm_types.end(), HasPrivateMemory)) {
    return Failure(ENOTTY);
  }
  kvm_memory_attributes request;
  if (!CopyIn(argument, request)) return Failure(EFAULT);
  if (request.flags != 0) return Failure(EINVAL);
  if ((request.attributes & ~SupportedAttributes(vm.object().vm_type())) != 0) {
    return Failure(EINVAL);
  }
  if (request.size == 0 || request.address + request.size < request.address) {
    return Failure(EINVAL);
  }
  if (!IsPageAligned(request.address) || !IsPageAligned(request.size)) return Failure(EINVAL);

  std::lock_guard<RobustMutex> guard(vm.object().memory_lock);
  const std::vector<PrivateRange> ranges = WithAttribute(
      vm.object().attributes.Get().used(), {request.address, request.address + request.size},
      (request.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE) != 0);
  if (ranges.size() > kMaxAttributeRanges) return Failure(ENOMEM);
  vm.object().attributes.Update([&](AttributeTable& table) { table.Assign(ranges); });
  vm.UpdateView();
  return Success();
}

}  // namespace rehome::sim
