// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/capability_probes.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/throwaway_vm.h"
#include "kvmglue/vcpu_state.h"

namespace rehome {
namespace {

using VmOr = absl::StatusOr<std::unique_ptr<ThrowawayVm>>;

absl::Status Missing(std::string_view reason, std::string_view detail) {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, reason, detail);
}

VmOr NewVm(const ProbeBench& bench, VmType type) {
  return ThrowawayVm::Create(bench.kernel, bench.kvm, type);
}

// A default VM with a vCPU.
VmOr NewVmWithVcpu(const ProbeBench& bench) {
  VmOr vm = NewVm(bench, VmType::kDefault);
  if (!vm.ok()) return vm;
  if (absl::Status status = (*vm)->CreateVcpu(bench.kvm); !status.ok()) return status;
  return vm;
}

SysResult MoveFrom(const ThrowawayVm& target, BorrowedFd source) {
  kvm_enable_cap enable = {};
  enable.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  enable.args[0] = static_cast<uint32_t>(source.raw());
  return target.Ioctl(KVM_ENABLE_CAP, &enable);
}

SysResult Link(const ThrowawayVm& target, unsigned long request, uint64_t fd, uint64_t flags) {
  LinkGuestMemfdArgs link = {.fd = fd, .flags = flags, .reserved = {}};
  return target.Ioctl(request, &link);
}

// A probe of the form "this ioctl on a vCPU works".
Probe TryVcpuIoctl(const ProbeBench& bench, unsigned long request, void* argument,
                   std::string_view name, std::string_view reason) {
  const VmOr vm = NewVmWithVcpu(bench);
  if (!vm.ok()) return vm.status();
  const SysResult result = (*vm)->VcpuIoctl(request, argument);
  const absl::string_view text(name.data(), name.size());
  if (result.ok()) return absl::StrCat(text, " works");
  return Missing(reason, absl::StrCat(text, ": ", ErrnoText(result.error)));
}

}  // namespace

Probe ProbeKvm(KvmSyscalls& kernel, UniqueFd& kvm) {
  absl::StatusOr<UniqueFd> opened = AdoptFd(kernel.OpenKvm(), KernelCall::kOpenKvm, "");
  if (!opened.ok()) return opened.status();
  const SysResult version = kernel.Ioctl(opened->borrow(), KVM_GET_API_VERSION, nullptr);
  if (!version.ok()) return ErrnoStatus(KernelCall::kGetApiVersion, version.error, "");
  if (version.value != KVM_API_VERSION) {
    return Missing("KVM_UNAVAILABLE",
                   absl::StrCat("KVM API version ", version.value, ", not ", KVM_API_VERSION));
  }
  kvm = *std::move(opened);
  return absl::StrCat("API version ", version.value);
}

Probe ProbeVmType(const ProbeBench& bench, VmType type) {
  const VmOr vm = NewVm(bench, type);
  if (type == VmType::kSnp) {
    return Missing(
        "SNP_REFUSED",
        absl::StrCat("Rehome does not move SNP guests: kernels without an explicit check accept "
                     "the move and lose the guest. KVM_CREATE_VM of this type: ",
                     vm.ok() ? "works" : vm.status().message()));
  }
  if (!vm.ok()) return vm.status();
  return "KVM_CREATE_VM works";
}

Probe ProbeGuestMemfd(const ProbeBench& bench, VmType type) {
  const VmOr vm = NewVm(bench, type);
  if (!vm.ok()) return vm.status();
  UniqueFd memory;
  const SysResult created = (*vm)->CreateGuestMemfd(/*flags=*/0, memory);
  if (!created.ok()) {
    return Missing("GUEST_MEMFD_UNSUPPORTED",
                   absl::StrCat("KVM_CREATE_GUEST_MEMFD: ", ErrnoText(created.error)));
  }
  const SysResult bound = (*vm)->BindPage(memory.borrow());
  if (bound.ok()) return "created and bound";
  return Missing(
      "GUEST_MEMFD_UNSUPPORTED",
      absl::StrCat("created, but KVM_SET_USER_MEMORY_REGION2: ", ErrnoText(bound.error)));
}

Probe ProbeGuestMemfdMmap(const ProbeBench& bench, VmType type) {
  constexpr std::string_view kReason = "GUEST_MEMFD_MMAP_UNSUPPORTED";
  const VmOr vm = NewVm(bench, type);
  if (!vm.ok()) return vm.status();
  UniqueFd memory;
  const SysResult created =
      (*vm)->CreateGuestMemfd(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, memory);
  if (!created.ok()) {
    return Missing(kReason, absl::StrCat("KVM_CREATE_GUEST_MEMFD with MMAP | INIT_SHARED: ",
                                         ErrnoText(created.error)));
  }
  void* address = nullptr;
  const SysResult mapped =
      bench.kernel.MapShared(memory.borrow(), kThrowawayPageBytes, 0, &address);
  if (!mapped.ok()) return Missing(kReason, absl::StrCat("mmap: ", ErrnoText(mapped.error)));
  // Unlike a store, this gives an error where the page would raise SIGBUS.
  const SysResult touched =
      CaptureErrno(madvise(address, kThrowawayPageBytes, MADV_POPULATE_WRITE));
  munmap(address, kThrowawayPageBytes);
  if (!touched.ok()) {
    return Missing(kReason,
                   absl::StrCat("mapped, but MADV_POPULATE_WRITE: ", ErrnoText(touched.error)));
  }
  return "created, mapped and written";
}

Probe ProbeLink(const ProbeBench& bench, VmType type) {
  const unsigned long request = LinkGuestMemfdRequest(bench.link_abi.ioctl_number);
  const VmOr source = NewVm(bench, type);
  if (!source.ok()) return source.status();
  const VmOr target = NewVm(bench, type);
  if (!target.ok()) return target.status();
  const SysResult absurd = Link(**target, request, ~uint64_t{0}, ~uint64_t{0});
  const std::string tried = absl::StrFormat("ioctl %#x with flags ~0: %s", request,
                                            absurd.ok() ? "success" : ErrnoText(absurd.error));
  if (absurd.ok()) UniqueFd closes_it(static_cast<int>(absurd.value));
  if (absurd.ok() || absurd.error != EINVAL) return Missing("LINK_UNSUPPORTED", tried);

  UniqueFd memory;
  const SysResult created = (*source)->CreateGuestMemfd(/*flags=*/0, memory);
  if (!created.ok()) {
    return Missing("GUEST_MEMFD_UNSUPPORTED",
                   absl::StrCat("KVM_CREATE_GUEST_MEMFD: ", ErrnoText(created.error)));
  }
  const SysResult linked =
      Link(**target, request, static_cast<uint64_t>(memory.borrow().raw()), /*flags=*/0);
  if (!linked.ok()) {
    return Missing("LINK_UNSUPPORTED",
                   absl::StrCat(tried, "; a real link: ", ErrnoText(linked.error)));
  }
  const UniqueFd link(static_cast<int>(linked.value));
  const absl::StatusOr<FileIdentity> original = Identify(memory.borrow());
  const absl::StatusOr<FileIdentity> copy = Identify(link.borrow());
  if (!original.ok() || !copy.ok() || original->id != copy->id) {
    return Missing("LINK_UNSUPPORTED", absl::StrCat(tried,
                                                    "; a real link: a file of another inode, "
                                                    "so this is not KVM_LINK_GUEST_MEMFD"));
  }
  return absl::StrCat(tried, "; a real link: the same inode");
}

Probe ProbeMove(const ProbeBench& bench, VmType type) {
  const VmOr target = NewVm(bench, type);
  if (!target.ok()) return target.status();
  const SysResult from_nothing = MoveFrom(**target, BorrowedFd());
  std::string tried = absl::StrCat("KVM_ENABLE_CAP(206) from fd -1: ",
                                   from_nothing.ok() ? "success" : ErrnoText(from_nothing.error));
  if (from_nothing.ok() || from_nothing.error != EBADF) return Missing("MOVE_UNSUPPORTED", tried);
  if (type != VmType::kSwProtected) return tried;

  const VmOr source = NewVm(bench, type);
  if (!source.ok()) return source.status();
  const SysResult moved = MoveFrom(**target, (*source)->fd());
  absl::StrAppend(&tried,
                  "; between two empty VMs: ", moved.ok() ? "success" : ErrnoText(moved.error));
  return moved.ok() ? Probe(tried) : Missing("MOVE_UNSUPPORTED", tried);
}

Probe ProbeMemoryAttributes(const ProbeBench& bench, VmType type) {
  const VmOr vm = NewVm(bench, type);
  if (!vm.ok()) return vm.status();
  kvm_memory_attributes attributes = {.address = 0,
                                      .size = kThrowawayPageBytes,
                                      .attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
                                      .flags = 0};
  const SysResult result = (*vm)->Ioctl(KVM_SET_MEMORY_ATTRIBUTES, &attributes);
  if (result.ok()) return "KVM_SET_MEMORY_ATTRIBUTES(PRIVATE) works";
  return Missing("MEMORY_ATTRIBUTES_UNSUPPORTED",
                 absl::StrCat("KVM_SET_MEMORY_ATTRIBUTES(PRIVATE): ", ErrnoText(result.error)));
}

Probe ProbePreFault(const ProbeBench& bench) {
  const VmOr vm = NewVmWithVcpu(bench);
  if (!vm.ok()) return vm.status();
  const SysResult bound = (*vm)->BindPage(BorrowedFd());
  if (!bound.ok()) return ErrnoStatus(KernelCall::kSetUserMemoryRegion, bound.error, "one page");
  kvm_pre_fault_memory range = {.gpa = 0, .size = kThrowawayPageBytes, .flags = 0, .padding = {}};
  const SysResult result = (*vm)->VcpuIoctl(KVM_PRE_FAULT_MEMORY, &range);
  if (result.ok()) return "KVM_PRE_FAULT_MEMORY of one page works";
  return Missing("PRE_FAULT_UNSUPPORTED",
                 absl::StrCat("KVM_PRE_FAULT_MEMORY of one page: ", ErrnoText(result.error)));
}

Probe ProbeXsave2(const ProbeBench& bench) {
  const VmOr vm = NewVm(bench, VmType::kDefault);
  if (!vm.ok()) return vm.status();
  const long bytes = CheckExtension(bench.kernel, (*vm)->fd(), KVM_CAP_XSAVE2);
  if (bytes <= 0 || bytes > static_cast<long>(kMaxXsaveBytes)) {
    return Missing("XSAVE2_UNSUPPORTED", absl::StrCat("KVM_CAP_XSAVE2 is ", bytes));
  }
  std::vector<uint8_t> area(kMaxXsaveBytes);
  Probe probe =
      TryVcpuIoctl(bench, KVM_GET_XSAVE2, area.data(), "KVM_GET_XSAVE2", "XSAVE2_UNSUPPORTED");
  if (probe.ok()) absl::StrAppend(&*probe, ", ", bytes, " bytes");
  return probe;
}

Probe ProbeSregs2(const ProbeBench& bench) {
  kvm_sregs2 sregs = {};
  return TryVcpuIoctl(bench, KVM_GET_SREGS2, &sregs, "KVM_GET_SREGS2", "SREGS2_UNSUPPORTED");
}

Probe ProbeTscOffset(const ProbeBench& bench) {
  constexpr uint64_t kOffset = uint64_t{1} << 32;
  const VmOr vm = NewVmWithVcpu(bench);
  if (!vm.ok()) return vm.status();
  uint64_t offset = kOffset;
  kvm_device_attr attribute = {.flags = 0,
                               .group = KVM_VCPU_TSC_CTRL,
                               .attr = KVM_VCPU_TSC_OFFSET,
                               .addr = reinterpret_cast<uint64_t>(&offset)};
  const SysResult set = (*vm)->VcpuIoctl(KVM_SET_DEVICE_ATTR, &attribute);
  const SysResult get = set.ok() ? (*vm)->VcpuIoctl(KVM_GET_DEVICE_ATTR, &attribute) : set;
  if (!get.ok()) {
    return Missing("TSC_OFFSET_UNSUPPORTED",
                   absl::StrCat("KVM_VCPU_TSC_OFFSET: ", ErrnoText(get.error)));
  }
  if (offset == kOffset) return "KVM_VCPU_TSC_OFFSET is kept";
  return absl::StrFormat("KVM_VCPU_TSC_OFFSET: set %#x, read back %#x: guests see the host's TSC",
                         kOffset, offset);
}

Probe ProbeSyncRegs(const ProbeBench& bench) {
  constexpr uint64_t kResetRip = 0xfff0;
  const VmOr vm = NewVmWithVcpu(bench);
  if (!vm.ok()) return vm.status();
  const long fields = CheckExtension(bench.kernel, (*vm)->fd(), KVM_CAP_SYNC_REGS);
  (*vm)->run()->immediate_exit = 1;
  (*vm)->run()->kvm_valid_regs = KVM_SYNC_X86_VALID_FIELDS;
  const SysResult run = (*vm)->VcpuIoctl(KVM_RUN, nullptr);
  const bool there = (*vm)->run()->s.regs.regs.rip == kResetRip;
  const std::string tried = absl::StrFormat(
      "KVM_CAP_SYNC_REGS is %d; KVM_RUN with immediate_exit: %s, registers %s", fields,
      run.ok() ? "success" : ErrnoText(run.error), there ? "there" : "not there");
  if (!run.ok() && run.error == EINTR && there) return tried;
  return Missing("SYNC_REGS_UNSUPPORTED", tried);
}

Probe ProbeIrqfd(const ProbeBench& bench) {
  constexpr uint32_t kGsi = 5;
  const VmOr vm = NewVm(bench, VmType::kDefault);
  if (!vm.ok()) return vm.status();
  const SysResult chip = (*vm)->Ioctl(KVM_CREATE_IRQCHIP, nullptr);
  if (!chip.ok()) {
    return Missing("IRQFD_UNSUPPORTED",
                   absl::StrCat("KVM_CREATE_IRQCHIP: ", ErrnoText(chip.error)));
  }
  const UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(event.borrow().raw());
  irqfd.gsi = kGsi;
  const SysResult assigned = (*vm)->Ioctl(KVM_IRQFD, &irqfd);
  if (assigned.ok()) return "KVM_IRQFD works";
  return Missing("IRQFD_UNSUPPORTED", absl::StrCat("KVM_IRQFD: ", ErrnoText(assigned.error)));
}

}  // namespace rehome
