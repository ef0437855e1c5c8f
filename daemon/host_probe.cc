// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_probe.h"

#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/sim/simulated_kernel.h"

namespace rehome {
namespace {

// The daemon runs no guest.
class NoGuest final : public SimulatedCpu {
 public:
  SimExit Step(SimVcpuContext&) override { return SimExit::Halt(); }
};

}  // namespace

Backend OpenBackend(KernelBackend backend, const LinkAbi& link_abi) {
  switch (backend) {
    case KernelBackend::kKvm:
      return {ProbeHost(*OpenRealKvm(), link_abi), NewKvmFdKinds()};
    case KernelBackend::kSim:
      break;
  }
  NoGuest no_guest;
  SimulatedKernelOptions options;
  options.link_ioctl_number = link_abi.ioctl_number;
  SimulatedKernel kernel(options, no_guest);
  return {ProbeHost(kernel, link_abi), NewSimFdKinds()};
}

}  // namespace rehome
