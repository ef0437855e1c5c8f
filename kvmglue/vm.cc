// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_traits.h"

namespace rehome {
namespace {

// Below 4 GiB, out of the way of RAM and of the APIC and IOAPIC pages: where QEMU has them.
constexpr uint64_t kIdentityMapAddress = 0xfffbc000;
constexpr uint64_t kTssAddress = 0xfffbd000;  // three pages

// More than any CPU's list; the kernel says E2BIG above.
constexpr uint32_t kMaxIndexList = 1024;

static_assert(kGuestMemfdMmap == GUEST_MEMFD_FLAG_MMAP);
static_assert(kGuestMemfdInitShared == GUEST_MEMFD_FLAG_INIT_SHARED);
static_assert(kMemslotDirtyLog == KVM_MEM_LOG_DIRTY_PAGES);
static_assert(kMemslotReadOnly == KVM_MEM_READONLY);
static_assert(kMemslotGuestMemfd == KVM_MEM_GUEST_MEMFD);
static_assert(static_cast<uint32_t>(VmType::kSwProtected) == KVM_X86_SW_PROTECTED_VM);
static_assert(static_cast<uint32_t>(VmType::kSev) == KVM_X86_SEV_VM);
static_assert(static_cast<uint32_t>(VmType::kSevEs) == KVM_X86_SEV_ES_VM);
static_assert(static_cast<uint32_t>(VmType::kSnp) == KVM_X86_SNP_VM);
static_assert(static_cast<uint32_t>(VmType::kTdx) == KVM_X86_TDX_VM);

// Without these two KVM delivers a pending exception early, or loses a pending triple fault, when
// its state is read (api.rst 7.10, 7.27). The flag is what KVM_SET_VCPU_EVENTS takes then.
constexpr struct {
  uint32_t capability;
  uint32_t event_flag;
} kEventCapabilities[] = {
    {KVM_CAP_EXCEPTION_PAYLOAD, KVM_VCPUEVENT_VALID_PAYLOAD},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT},
};
constexpr uint32_t kPlainEventFlags = KVM_VCPUEVENT_VALID_NMI_PENDING |
                                      KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW |
                                      KVM_VCPUEVENT_VALID_SMM;

absl::StatusOr<std::vector<uint32_t>> ReadMsrIndexList(KvmSyscalls& kernel, BorrowedFd kvm) {
  struct {
    uint32_t count;
    uint32_t indices[kMaxIndexList];
  } list = {.count = kMaxIndexList, .indices = {}};
  static_assert(offsetof(decltype(list), indices) == offsetof(kvm_msr_list, indices));
  absl::Status status =
      CallIoctl(kernel, kvm, KernelCall::kGetMsrIndexList, KVM_GET_MSR_INDEX_LIST, &list);
  if (!status.ok()) return status;
  const uint32_t count = std::min(list.count, kMaxIndexList);
  return std::vector<uint32_t>(list.indices, list.indices + count);
}

// What /dev/kvm says; ReadVmTraits() adds what only a VM can say.
absl::StatusOr<std::shared_ptr<VcpuTraits>> ReadSystemTraits(KvmSyscalls& kernel, BorrowedFd kvm) {
  const SysResult version = kernel.Ioctl(kvm, KVM_GET_API_VERSION, nullptr);
  if (!version.ok()) return ErrnoStatus(KernelCall::kGetApiVersion, version.error, "");
  if (version.value != KVM_API_VERSION) {
    return MakeStatus(absl::StatusCode::kUnavailable, "KVM_UNAVAILABLE",
                      absl::StrCat("KVM API version ", version.value));
  }
  const SysResult run_bytes = kernel.Ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, nullptr);
  if (!run_bytes.ok() || run_bytes.value < static_cast<long>(sizeof(kvm_run))) {
    return ErrnoStatus(KernelCall::kGetVcpuMmapSize, run_bytes.error,
                       absl::StrCat("answer ", run_bytes.value));
  }
  absl::StatusOr<std::vector<uint32_t>> msrs = ReadMsrIndexList(kernel, kvm);
  if (!msrs.ok()) return msrs.status();
  auto traits = std::make_shared<VcpuTraits>();
  traits->kernel = &kernel;
  traits->run_bytes = static_cast<size_t>(run_bytes.value);
  traits->msr_candidates = *std::move(msrs);
  return traits;
}

absl::Status ReadVmTraits(KvmSyscalls& kernel, BorrowedFd vm, VmType type, VcpuTraits& traits) {
  traits.registers_protected = type == VmType::kSevEs || type == VmType::kTdx;
  traits.has_sregs2 = CheckExtension(kernel, vm, KVM_CAP_SREGS2) > 0;
  const long sync_fields = CheckExtension(kernel, vm, KVM_CAP_SYNC_REGS);
  traits.sync_regs =
      !traits.registers_protected &&
      (sync_fields & KVM_SYNC_X86_VALID_FIELDS) == static_cast<long>(KVM_SYNC_X86_VALID_FIELDS);
  const long xsave = CheckExtension(kernel, vm, KVM_CAP_XSAVE2);
  if (xsave > static_cast<long>(kMaxXsaveBytes)) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "XSAVE_TOO_LARGE",
                      absl::StrCat(xsave, " bytes, at most ", kMaxXsaveBytes));
  }
  traits.xsave_bytes = std::max(static_cast<uint32_t>(sizeof(kvm_xsave)),
                                static_cast<uint32_t>(std::max(xsave, 0l)));
  traits.event_flags = kPlainEventFlags;
  for (const auto& [capability, event_flag] : kEventCapabilities) {
    if (CheckExtension(kernel, vm, capability) <= 0) continue;
    kvm_enable_cap enable = {};
    enable.cap = capability;
    enable.args[0] = 1;
    absl::Status status = CallIoctl(kernel, vm, KernelCall::kEnableCap, KVM_ENABLE_CAP, &enable,
                                    absl::StrCat("capability ", capability));
    if (!status.ok()) return status;
    traits.event_flags |= event_flag;
  }
  return absl::OkStatus();
}

std::string DescribeSlot(const Memslot& slot) {
  return absl::StrFormat("memslot %u of address space %u, gpa %#x, %#x bytes", slot.slot,
                         slot.address_space, slot.gpa, slot.size_bytes);
}

uint32_t KernelSlot(uint32_t slot, uint32_t address_space) { return slot | address_space << 16; }

}  // namespace

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(KvmSyscalls& kernel, VmType type,
                                               const LinkAbi& link_abi) {
  absl::StatusOr<UniqueFd> kvm = AdoptFd(kernel.OpenKvm(), KernelCall::kOpenKvm, "");
  if (!kvm.ok()) return kvm.status();
  auto traits = ReadSystemTraits(kernel, kvm->borrow());
  if (!traits.ok()) return traits.status();
  const SysResult created =
      kernel.Ioctl(kvm->borrow(), KVM_CREATE_VM, IoctlNumber(static_cast<uint32_t>(type)));
  const std::string_view name = VmTypeName(type);
  absl::StatusOr<UniqueFd> fd =
      AdoptFd(created, KernelCall::kCreateVm,
              absl::StrCat("type ", absl::string_view(name.data(), name.size())));
  if (!fd.ok()) return fd.status();
  absl::Status status = ReadVmTraits(kernel, fd->borrow(), type, **traits);
  if (!status.ok()) return status;
  return std::unique_ptr<Vm>(new Vm(kernel, type, link_abi, *std::move(fd), *std::move(traits)));
}

Vm::Vm(KvmSyscalls& kernel, VmType type, const LinkAbi& link_abi, UniqueFd fd,
       std::shared_ptr<VcpuTraits> traits)
    : kernel_(kernel),
      type_(type),
      link_abi_(link_abi),
      fd_(std::move(fd)),
      traits_(std::move(traits)) {}

Vm::~Vm() = default;

absl::Status Vm::Call(KernelCall call, unsigned long request, void* argument,
                      std::string_view detail) const {
  return CallIoctl(kernel_, fd(), call, request, argument, detail);
}

void Vm::DisableSyncRegs() { traits_->sync_regs = false; }

absl::Status Vm::CreateIrqchip() {
  uint64_t identity_map = kIdentityMapAddress;
  kvm_pit_config pit = {};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  const struct {
    KernelCall call;
    unsigned long request;
    void* argument;
  } steps[] = {
      {KernelCall::kSetTssAddr, KVM_SET_TSS_ADDR, IoctlNumber(kTssAddress)},
      {KernelCall::kSetIdentityMapAddr, KVM_SET_IDENTITY_MAP_ADDR, &identity_map},
      {KernelCall::kCreateIrqchip, KVM_CREATE_IRQCHIP, nullptr},
      {KernelCall::kCreatePit2, KVM_CREATE_PIT2, &pit},
  };
  for (const auto& [call, request, argument] : steps) {
    if (absl::Status status = Call(call, request, argument); !status.ok()) return status;
  }
  traits_->has_irqchip = true;
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Vm::CreateGuestMemfd(uint64_t size_bytes, uint64_t flags) {
  kvm_create_guest_memfd create = {.size = size_bytes, .flags = flags, .reserved = {}};
  return AdoptFd(kernel_.Ioctl(fd(), KVM_CREATE_GUEST_MEMFD, &create),
                 KernelCall::kCreateGuestMemfd,
                 absl::StrFormat("%u bytes, flags %#x", size_bytes, flags));
}

absl::StatusOr<UniqueFd> Vm::LinkGuestMemfd(BorrowedFd source) {
  LinkGuestMemfdArgs link = {.fd = static_cast<uint64_t>(source.raw()), .flags = 0, .reserved = {}};
  const unsigned long request = LinkGuestMemfdRequest(link_abi_.ioctl_number);
  return AdoptFd(kernel_.Ioctl(fd(), request, &link), KernelCall::kLinkGuestMemfd,
                 absl::StrFormat("ioctl %#x", request));
}

absl::Status Vm::SetMemslot(const Memslot& slot, BorrowedFd guest_memfd) {
  const bool has_guest_memfd = (slot.flags & kMemslotGuestMemfd) != 0;
  if (has_guest_memfd != guest_memfd.valid()) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "MEMSLOT_INVALID",
                      absl::StrCat(DescribeSlot(slot), ": a guest_memfd and its flag go together"));
  }
  kvm_userspace_memory_region2 region = {};
  region.slot = KernelSlot(slot.slot, slot.address_space);
  region.flags = slot.flags;
  region.guest_phys_addr = slot.gpa;
  region.memory_size = slot.size_bytes;
  region.userspace_addr = slot.hva;
  region.guest_memfd_offset = has_guest_memfd ? slot.offset : 0;
  region.guest_memfd = has_guest_memfd ? static_cast<uint32_t>(guest_memfd.raw()) : 0;
  // The older structure is the beginning of the newer one.
  static_assert(offsetof(kvm_userspace_memory_region2, userspace_addr) ==
                offsetof(kvm_userspace_memory_region, userspace_addr));
  const unsigned long request =
      has_guest_memfd ? KVM_SET_USER_MEMORY_REGION2 : KVM_SET_USER_MEMORY_REGION;
  absl::Status status =
      Call(KernelCall::kSetUserMemoryRegion, request, &region, DescribeSlot(slot));
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  slots_[{slot.address_space, slot.slot}] = slot;
  return absl::OkStatus();
}

absl::Status Vm::DeleteMemslot(uint32_t slot, uint32_t address_space) {
  kvm_userspace_memory_region region = {};
  region.slot = KernelSlot(slot, address_space);
  absl::Status status = Call(KernelCall::kSetUserMemoryRegion, KVM_SET_USER_MEMORY_REGION, &region,
                             absl::StrCat("delete memslot ", slot, " of ", address_space));
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  slots_.erase({address_space, slot});
  return absl::OkStatus();
}

absl::Status Vm::SetPrivate(uint64_t gpa, uint64_t size_bytes, bool is_private) {
  kvm_memory_attributes attributes = {
      .address = gpa,
      .size = size_bytes,
      .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
      .flags = 0,
  };
  return Call(KernelCall::kSetMemoryAttributes, KVM_SET_MEMORY_ATTRIBUTES, &attributes,
              absl::StrFormat("gpa %#x, %#x bytes", gpa, size_bytes));
}

absl::Status Vm::MoveEncContextFrom(BorrowedFd source_vm) {
  const auto move = [this](BorrowedFd source) {
    kvm_enable_cap enable = {};
    enable.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
    enable.args[0] = static_cast<uint32_t>(source.raw());
    return kernel_.Ioctl(fd(), KVM_ENABLE_CAP, &enable);
  };
  const SysResult result = move(source_vm);
  if (result.ok()) return absl::OkStatus();
  if (result.error == EINVAL && move(BorrowedFd()).error == EINVAL) {
    return ErrnoStatus(KernelCall::kMoveEncContext, ENOTTY,
                       "EINVAL whatever the source: this kernel has no MOVE for this VM");
  }
  return ErrnoStatus(KernelCall::kMoveEncContext, result.error, "");
}

bool Vm::HasTscDeadline() const {
  return CheckExtension(kernel_, fd(), KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

absl::StatusOr<uint32_t> Vm::MaxVcpus(KvmSyscalls& kernel) {
  // Without the capability it is 4 (api.rst, KVM_CREATE_VCPU).
  constexpr uint32_t kWithoutCapability = 4;
  const absl::StatusOr<UniqueFd> kvm = AdoptFd(kernel.OpenKvm(), KernelCall::kOpenKvm, "");
  if (!kvm.ok()) return kvm.status();
  const long most = CheckExtension(kernel, kvm->borrow(), KVM_CAP_MAX_VCPUS);
  return most > 0 ? static_cast<uint32_t>(most) : kWithoutCapability;
}

absl::StatusOr<std::unique_ptr<Vcpu>> Vm::CreateVcpu(uint32_t index) {
  const std::string detail = absl::StrCat("vCPU ", index);
  absl::StatusOr<UniqueFd> vcpu = AdoptFd(kernel_.Ioctl(fd(), KVM_CREATE_VCPU, IoctlNumber(index)),
                                          KernelCall::kCreateVcpu, detail);
  if (!vcpu.ok()) return vcpu.status();
  void* run = nullptr;
  const SysResult mapped = kernel_.MapShared(vcpu->borrow(), traits_->run_bytes, 0, &run);
  if (!mapped.ok()) return ErrnoStatus(KernelCall::kMapRun, mapped.error, detail);
  return std::unique_ptr<Vcpu>(
      new Vcpu(traits_, index, *std::move(vcpu), static_cast<kvm_run*>(run)));
}

absl::Status Vm::Probe() const {
  return Call(KernelCall::kCheckExtension, KVM_CHECK_EXTENSION, IoctlNumber(KVM_CAP_USER_MEMORY));
}

}  // namespace rehome
