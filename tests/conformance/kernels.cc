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

constexpr char kStrategyLink[] =
    "the strategy LINK of VMs of type default, which the RFCs allow, is tried here";
constexpr char kNotInTheRfc[] = "RFC v2 does not have it";
constexpr char kNoGate[] = "RFC v2 has no mapping gate";
constexpr char kDoesNotWait[] = "MOVE did not wait";
constexpr char kTargetReads[] = "an inode of its own is empty";
constexpr char kNoVcpus[] = "MOVE of RFC v2 takes no notice of vCPUs";

using Deviations = std::vector<Deviation>;

// What a process does to a file is no call of KVM's.
Deviations OfMemoryFiles() {
  return {{"memfd.reopen-enxio", "reopened", kNotTheSeam},
          {"memfd.no-read-write", "read(file.raw()", kNotTheSeam},
          {"memfd.fallocate-keep-size", "Fallocate(file, 0, 0, kPage)", kNotTheSeam},
          {"memfd.fallocate-aligned", "kPage / 2)", kNotTheSeam},
          {"memfd.fallocate-within", "Which is: 1", kNotTheSeam},
          {"memfd.mmap-private-einval", "mapped", kNotTheSeam}};
}

Deviations OfTheSim() {
  Deviations all = OfMemoryFiles();
  const Deviations more = {
      {"link.immovable-type-einval", "into", kStrategyLink},
      {"dormant.punch-eperm", "nothing was freed", kNotTheSeam},
      {"dormant.allocate-eperm", "Which is: 0", kNotTheSeam},
      {"dead.old-file-eperm", "the target's memory is its own", kNotTheSeam},
      {"dead.spare-file-eperm", "the target's memory is its own", kNotTheSeam}};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Deviations OfTheRfc() {
  Deviations all = OfTheSim();
  const Deviations more = {{"link.close-on-exec", "fcntl(link", kNotInTheRfc},
                           {"link.capability", "10001", kNotInTheRfc},
                           {"link.reserved-einval", "arguments", kNotInTheRfc},
                           {"link.fd-too-large-einval", "arguments", kNotInTheRfc},
                           {"dormant.guest-faults", "nothing was written", kNoGate},
                           {"dormant.source-runs-on", "gate.target.Load", kNoGate},
                           {"dormant.mmap-eperm", "MapShared", kNoGate},
                           {"dormant.unbound-stays-shut", "gate.target.Load", kNoGate},
                           {"dormant.others-stay-shut", "bystander.Load", kNoGate},
                           {"mismatch.vcpu-count", "bench.Move", kNoVcpus},
                           {"mismatch.extra-slot", kTargetReads, kNoGate},
                           {"mismatch.extra-ordinary-slot", kTargetReads, kNoGate},
                           {"mismatch.size", kTargetReads, kNoGate},
                           {"mismatch.flags", kTargetReads, kNoGate},
                           {"mismatch.dormant-source", "bench.Move", kNoGate},
                           {"concurrent.waits-for-source", kDoesNotWait, kNoVcpus},
                           {"concurrent.waits-for-target", kDoesNotWait, kNoVcpus},
                           {"concurrent.under-way-ebusy", kDoesNotWait, kNoVcpus},
                           {"concurrent.opposite", kTimingDecides, kNoGate}};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

// Both need an owner of the CPU that outlives the kernel; there is one guest for all.
std::unique_ptr<KvmSyscalls> OpenSim(SimulatedKernelOptions options) {
  static SimGuest guest;
  return std::make_unique<SimulatedKernel>(std::move(options), guest);
}

std::unique_ptr<KvmSyscalls> OpenPatchedSim() { return OpenSim({}); }

std::unique_ptr<KvmSyscalls> OpenRfcSim() { return OpenSim({.gate = false, .rfc_v2_move = true}); }

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
     .deviations = OfTheSim(),
     .open = OpenPatchedSim},
    {.name = "sim-rfc",
     .what = "the simulated kernel as RFC v2 has LINK and MOVE: what the patches add, and that the "
             "rules can tell",
     .features = {Feature::kLink, Feature::kMove, Feature::kPrivateMemory,
                  Feature::kMappableMemory},
     .features_vary = false,
     .deviations = OfTheRfc(),
     .open = OpenRfcSim},
    {.name = "sim-stock",
     .what = "the simulated kernel without LINK and MOVE of SW_PROTECTED",
     .features = {Feature::kPrivateMemory, Feature::kMappableMemory},
     .features_vary = false,
     .deviations = OfMemoryFiles(),
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
