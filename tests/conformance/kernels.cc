// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/kernels.h"

#include <algorithm>

#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/sim/simulated_kernel.h"
#include "tests/conformance/sim_guest.h"

namespace rehome::conformance {
namespace {

constexpr char kNotTheSeam[] =
    "fallocate(2), read(2), mmap(2) and open(2) of a memfd are the host's: a library does not see "
    "them";

constexpr Deviation kSimDeviations[] = {
    {"memfd.reopen-enxio", "reopened", kNotTheSeam},
    {"memfd.no-read-write", "read(file.raw()", kNotTheSeam},
    {"memfd.fallocate-keep-size", "Fallocate(file, 0, 0, kPage)\n    Which is: 0", kNotTheSeam},
    {"memfd.fallocate-aligned", "kPage / 2)\n    Which is: 0", kNotTheSeam},
    {"memfd.fallocate-within", "Which is: 1", kNotTheSeam},
    {"memfd.mmap-private-einval", "mapped", kNotTheSeam},
    {"link.immovable-type-einval", "into",
     "the strategy LINK of VMs of type default, which the RFCs allow, is tried here"},
    {"dormant.punch-eperm", "nothing was freed", kNotTheSeam},
    {"dormant.allocate-eperm", "Which is: 0", kNotTheSeam},
    {"dead.old-file-eperm", "the target's memory is its own", kNotTheSeam},
    {"dead.spare-file-eperm", "the target's memory is its own", kNotTheSeam},
};

// Both need an owner of the CPU that outlives the kernel; there is one guest for all.
std::unique_ptr<KvmSyscalls> OpenSim(SimulatedKernelOptions options) {
  static SimGuest guest;
  return std::make_unique<SimulatedKernel>(std::move(options), guest);
}

std::unique_ptr<KvmSyscalls> OpenPatchedSim() { return OpenSim({}); }

std::unique_ptr<KvmSyscalls> OpenStockSim() {
  return OpenSim({.vm_types = {VmType::kDefault, VmType::kSwProtected},
                  .move_types = {},
                  .link_ioctl_number = std::nullopt});
}

const TestedKernel kKernels[] = {
    {.name = "sim",
     .what = "the simulated kernel as the tests of the project run on it",
     .features = {Feature::kLink, Feature::kMove, Feature::kPrivateMemory,
                  Feature::kMappableMemory},
     .features_vary = false,
     .deviations = kSimDeviations,
     .open = OpenPatchedSim},
    {.name = "sim-stock",
     .what = "the simulated kernel without LINK and MOVE of SW_PROTECTED",
     .features = {Feature::kPrivateMemory, Feature::kMappableMemory},
     .features_vary = false,
     .deviations = kSimDeviations,
     .open = OpenStockSim},
    {.name = "patched",
     .what = "Linux 6.12 with the patches of kernel/, in QEMU",
     .features = {Feature::kLink, Feature::kMove, Feature::kPrivateMemory, Feature::kPreFault},
     .features_vary = false,
     .deviations = {},
     .open = OpenRealKvm},
    {.name = "stock",
     .what = "Linux 6.12 as it is, in QEMU",
     .features = {Feature::kPrivateMemory, Feature::kPreFault},
     .features_vary = false,
     .deviations = {},
     .open = OpenRealKvm},
    {.name = "host",
     .what = "/dev/kvm of the machine; the column is of Linux 6.18 with VMs of type default only",
     .features = {Feature::kMappableMemory},
     .features_vary = true,
     .deviations = {},
     .open = OpenRealKvm},
};

}  // namespace

std::span<const TestedKernel> TestedKernels() { return kKernels; }

const TestedKernel* FindKernel(std::string_view name) {
  const auto found = std::find_if(std::begin(kKernels), std::end(kKernels),
                                  [&](const TestedKernel& kernel) { return kernel.name == name; });
  return found == std::end(kKernels) ? nullptr : found;
}

const Deviation* FindDeviation(const TestedKernel& kernel, std::string_view rule) {
  for (const Deviation& deviation : kernel.deviations) {
    if (deviation.rule == rule) return &deviation;
  }
  return nullptr;
}

std::string ExpectedVerdict(const TestedKernel& kernel, const Rule& rule) {
  for (const Feature feature : rule.needs) {
    if (!kernel.features.contains(feature)) return AbsentVerdict(feature);
  }
  return FindDeviation(kernel, rule.id) == nullptr ? "holds" : "differs";
}

std::string AbsentVerdict(Feature feature) {
  return std::string("absent: ") + FeatureName(feature) + ", " + AbsentAnswer(feature);
}

}  // namespace rehome::conformance
