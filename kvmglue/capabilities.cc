// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/capabilities.h"

#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <span>

#include "absl/strings/str_cat.h"
#include "kvmglue/capability_probes.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr VmType kAllTypes[] = {VmType::kDefault, VmType::kSwProtected, VmType::kSev,
                                VmType::kSevEs,   VmType::kSnp,         VmType::kTdx};
// Those that a strategy moves with KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM.
constexpr VmType kMovedTypes[] = {VmType::kSwProtected, VmType::kSev, VmType::kSevEs, VmType::kTdx};

std::string NameOf(std::string_view prefix, VmType type) {
  std::string name(prefix);
  name += VmTypeName(type);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Capability FromProbe(std::string name, const Probe& probe) {
  if (probe.ok())
    return {.name = std::move(name), .available = true, .reason = "", .detail = *probe};
  return {.name = std::move(name),
          .available = false,
          .reason = ReasonOf(probe.status()),
          .detail = std::string(probe.status().message())};
}

// Available if it is for any VM type; the detail says for which.
template <typename ProbeFunction>
Capability ForAnyType(std::string name, const ProbeBench& bench, std::span<const VmType> types,
                      ProbeFunction probe_type) {
  Capability result = {.name = std::move(name), .available = false, .reason = "", .detail = ""};
  if (types.empty()) {
    result.reason = "VM_TYPE_UNSUPPORTED";
    result.detail = "no VM of any type can be created";
  }
  for (const VmType type : types) {
    const Capability found = FromProbe(std::string(VmTypeName(type)), probe_type(bench, type));
    if (!found.available && result.reason.empty()) result.reason = found.reason;
    result.available = result.available || found.available;
    absl::StrAppend(&result.detail, result.detail.empty() ? "" : "; ", found.name, ": ",
                    found.detail);
  }
  if (result.available) result.reason.clear();
  return result;
}

std::string CpuModel() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  constexpr std::string_view kKey = "model name";
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.compare(0, kKey.size(), kKey) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

std::string KernelRelease() {
  utsname name = {};
  return uname(&name) == 0 ? name.release : "unknown";
}

using SimpleProbe = Probe (*)(const ProbeBench&);
constexpr struct {
  const char* name;
  SimpleProbe probe;
} kVcpuAndDeviceProbes[] = {
    {"pre_fault_memory", ProbePreFault}, {"xsave2", ProbeXsave2},      {"sregs2", ProbeSregs2},
    {"tsc_offset", ProbeTscOffset},      {"sync_regs", ProbeSyncRegs}, {"irqfd", ProbeIrqfd},
};

// Everything but "kvm" itself.
std::vector<Capability> ProbeAll(const ProbeBench& bench) {
  std::vector<Capability> found;
  std::vector<VmType> creatable;  // what cannot be created has nothing to be asked
  for (const VmType type : kAllTypes) {
    found.push_back(FromProbe(NameOf("vm_type_", type), ProbeVmType(bench, type)));
    if (found.back().available) creatable.push_back(type);
  }
  found.push_back(ForAnyType("guest_memfd", bench, creatable, ProbeGuestMemfd));
  found.push_back(ForAnyType("guest_memfd_mmap", bench, creatable, ProbeGuestMemfdMmap));
  found.push_back(ForAnyType("guest_memfd_link", bench, creatable, ProbeLink));
  for (const VmType type : kMovedTypes) {
    found.push_back(FromProbe(NameOf("move_enc_context_", type), ProbeMove(bench, type)));
  }
  found.push_back(ForAnyType("memory_attributes", bench, creatable, ProbeMemoryAttributes));
  for (const auto& [name, probe] : kVcpuAndDeviceProbes) {
    found.push_back(FromProbe(name, probe(bench)));
  }
  return found;
}

}  // namespace

const Capability* HostCapabilities::Find(std::string_view name) const {
  for (const Capability& capability : capabilities) {
    if (capability.name == name) return &capability;
  }
  return nullptr;
}

bool HostCapabilities::Has(std::string_view name) const {
  const Capability* capability = Find(name);
  return capability != nullptr && capability->available;
}

bool HostCapabilities::HasVmType(VmType type) const { return Has(NameOf("vm_type_", type)); }
bool HostCapabilities::CanLink() const { return Has("guest_memfd_link"); }
bool HostCapabilities::CanMove(VmType type) const { return Has(NameOf("move_enc_context_", type)); }

HostCapabilities ProbeHost(KvmSyscalls& kernel, const LinkAbi& link_abi) {
  HostCapabilities host = {.backend = kernel.Name(),
                           .kernel_release = KernelRelease(),
                           .machine = CpuModel(),
                           .link_abi = link_abi,
                           .capabilities = {}};
  UniqueFd kvm;
  host.capabilities.push_back(FromProbe("kvm", ProbeKvm(kernel, kvm)));
  const ProbeBench bench = {.kernel = kernel, .kvm = kvm.borrow(), .link_abi = link_abi};
  // Without /dev/kvm each probe fails on its first call; all names are there with that reason.
  std::vector<Capability> rest = ProbeAll(bench);
  for (Capability& capability : rest) {
    if (!kvm.valid()) {
      capability = {.name = capability.name,
                    .available = false,
                    .reason = host.capabilities.front().reason,
                    .detail = host.capabilities.front().detail};
    }
  }
  std::move(rest.begin(), rest.end(), std::back_inserter(host.capabilities));
  return host;
}

}  // namespace rehome
