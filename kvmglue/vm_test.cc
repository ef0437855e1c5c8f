// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vm.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm_state.h"

namespace rehome {
namespace {

using testing::ScriptedKvm;

constexpr uint64_t kPage = 4096;

std::unique_ptr<Vm> NewVm(ScriptedKvm& kernel, VmType type = VmType::kDefault) {
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(kernel, type, LinkAbi{});
  EXPECT_TRUE(vm.ok()) << vm.status();
  kernel.calls.clear();
  return *std::move(vm);
}

int DescriptorFlags(BorrowedFd fd) { return fcntl(fd.raw(), F_GETFD); }

// ---- creation

TEST(VmCreate, MakesTheVmOfTheTypeAsked) {
  for (const VmType type : {VmType::kDefault, VmType::kSwProtected, VmType::kTdx}) {
    ScriptedKvm kernel;
    kernel.On(KVM_CREATE_VM, [type](BorrowedFd, void* argument) {
      EXPECT_EQ(reinterpret_cast<uint64_t>(argument), static_cast<uint64_t>(type));
      return CaptureErrno(memfd_create("vm", 0));
    });
    EXPECT_EQ(NewVm(kernel, type)->type(), type);
  }
}

TEST(VmCreate, ReportsWhatIsMissing) {
  struct Case {
    const char* name;
    std::function<void(ScriptedKvm&)> spoil;
    absl::StatusCode code;
    const char* reason;
  };
  const Case cases[] = {
      {"no device", [](ScriptedKvm& k) { k.FailOpen(ENOENT); }, absl::StatusCode::kUnavailable,
       "KVM_UNAVAILABLE"},
      {"no permission", [](ScriptedKvm& k) { k.FailOpen(EACCES); }, absl::StatusCode::kUnavailable,
       "KVM_UNAVAILABLE"},
      {"other API",
       [](ScriptedKvm& k) {
         k.On(KVM_GET_API_VERSION, [](BorrowedFd, void*) { return SysResult{.value = 11}; });
       },
       absl::StatusCode::kUnavailable, "KVM_UNAVAILABLE"},
      {"no such type", [](ScriptedKvm& k) { k.Fail(KVM_CREATE_VM, EINVAL); },
       absl::StatusCode::kFailedPrecondition, "VM_TYPE_UNSUPPORTED"},
      {"descriptors", [](ScriptedKvm& k) { k.Fail(KVM_CREATE_VM, EMFILE); },
       absl::StatusCode::kResourceExhausted, "FD_LIMIT"},
      {"memory", [](ScriptedKvm& k) { k.Fail(KVM_CREATE_VM, ENOMEM); },
       absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY"},
      {"kvm_run too small",
       [](ScriptedKvm& k) {
         k.On(KVM_GET_VCPU_MMAP_SIZE, [](BorrowedFd, void*) { return SysResult{.value = 8}; });
       },
       absl::StatusCode::kInternal, "KVM_FAILED"},
      {"XSAVE area", [](ScriptedKvm& k) { k.extensions[KVM_CAP_XSAVE2] = 1 << 20; },
       absl::StatusCode::kFailedPrecondition, "XSAVE_TOO_LARGE"},
      {"capability refused",
       [](ScriptedKvm& k) {
         k.extensions[KVM_CAP_EXCEPTION_PAYLOAD] = 1;
         k.Fail(KVM_ENABLE_CAP, EINVAL);
       },
       absl::StatusCode::kInternal, "KVM_FAILED"},
  };
  for (const Case& spoilt : cases) {
    ScriptedKvm kernel;
    spoilt.spoil(kernel);
    const absl::Status status = Vm::Create(kernel, VmType::kDefault, LinkAbi{}).status();
    EXPECT_EQ(status.code(), spoilt.code) << spoilt.name << ": " << status;
    EXPECT_EQ(ReasonOf(status), spoilt.reason) << spoilt.name << ": " << status;
  }
}

// ---- close-on-exec, one test for each way of opening: ScriptedKvm gives descriptors without it

TEST(VmCloseOnExec, KvmDevice) {
  ScriptedKvm kernel;
  kernel.On(KVM_CREATE_VM, [](BorrowedFd kvm, void*) {
    EXPECT_EQ(DescriptorFlags(kvm), FD_CLOEXEC);
    return CaptureErrno(memfd_create("vm", 0));
  });
  (void)NewVm(kernel);
}

TEST(VmCloseOnExec, VmFd) {
  ScriptedKvm kernel;
  EXPECT_EQ(DescriptorFlags(NewVm(kernel)->fd()), FD_CLOEXEC);
}

TEST(VmCloseOnExec, VcpuFd) {
  ScriptedKvm kernel;
  EXPECT_EQ(DescriptorFlags(NewVm(kernel)->CreateVcpu(0).value()->fd()), FD_CLOEXEC);
}

TEST(VmCloseOnExec, GuestMemfd) {
  ScriptedKvm kernel;
  const absl::StatusOr<UniqueFd> memory = NewVm(kernel)->CreateGuestMemfd(kPage, 0);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(DescriptorFlags(memory->borrow()), FD_CLOEXEC);
}

TEST(VmCloseOnExec, LinkedGuestMemfd) {
  ScriptedKvm kernel;
  kernel.ReturnFd(LinkGuestMemfdRequest(0xd6));
  const absl::StatusOr<UniqueFd> memory = NewVm(kernel)->LinkGuestMemfd(BorrowedFd(0));
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(DescriptorFlags(memory->borrow()), FD_CLOEXEC);
}

// ---- memory

TEST(VmMemory, LinkUsesTheConfiguredNumberAndNoFlags) {
  ScriptedKvm kernel;
  const auto vm = Vm::Create(kernel, VmType::kSwProtected, LinkAbi{.ioctl_number = 0xd7}).value();
  kernel.On(LinkGuestMemfdRequest(0xd7), [](BorrowedFd, void* argument) {
    const auto* link = static_cast<const LinkGuestMemfdArgs*>(argument);
    EXPECT_EQ(link->fd, 5u);
    EXPECT_EQ(link->flags, 0u);
    return CaptureErrno(memfd_create("link", 0));
  });
  EXPECT_TRUE(vm->LinkGuestMemfd(BorrowedFd(5)).ok());
}

TEST(VmMemory, ASlotWithGuestMemfdGoesThroughTheNewerCall) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  kernel.On(KVM_SET_USER_MEMORY_REGION2, [](BorrowedFd, void* argument) {
    const auto* region = static_cast<const kvm_userspace_memory_region2*>(argument);
    EXPECT_EQ(region->slot, 7u | 1u << 16);
    EXPECT_EQ(region->flags, KVM_MEM_GUEST_MEMFD);
    EXPECT_EQ(region->guest_phys_addr, 16 * kPage);
    EXPECT_EQ(region->memory_size, 2 * kPage);
    EXPECT_EQ(region->userspace_addr, 32 * kPage);
    EXPECT_EQ(region->guest_memfd, 9u);
    EXPECT_EQ(region->guest_memfd_offset, 3 * kPage);
    return SysResult{};
  });
  const Memslot slot = {.slot = 7,
                        .address_space = 1,
                        .gpa = 16 * kPage,
                        .size_bytes = 2 * kPage,
                        .flags = kMemslotGuestMemfd,
                        .offset = 3 * kPage,
                        .hva = 32 * kPage};
  EXPECT_TRUE(vm->SetMemslot(slot, BorrowedFd(9)).ok());
  EXPECT_EQ(kernel.calls.size(), 1u);
}

// Kernels before 6.8 have only the older call, and MAP over a memfd works there.
TEST(VmMemory, AnOrdinarySlotAndADeletionGoThroughTheOlderCall) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  EXPECT_TRUE(vm->SetMemslot({.size_bytes = kPage, .hva = kPage}, BorrowedFd()).ok());
  EXPECT_TRUE(vm->DeleteMemslot(0, 0).ok());
  EXPECT_EQ(kernel.Count(KVM_SET_USER_MEMORY_REGION), 2u);
  EXPECT_EQ(kernel.calls.size(), 2u);
}

TEST(VmMemory, AGuestMemfdAndItsFlagGoTogether) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  Memslot slot = {.size_bytes = kPage};
  EXPECT_EQ(ReasonOf(vm->SetMemslot(slot, BorrowedFd(9))), "MEMSLOT_INVALID");
  slot.flags = kMemslotGuestMemfd;
  EXPECT_EQ(ReasonOf(vm->SetMemslot(slot, BorrowedFd())), "MEMSLOT_INVALID");
  EXPECT_TRUE(kernel.calls.empty());
}

TEST(VmMemory, PrivateIsSetAndCleared) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  for (const bool is_private : {true, false}) {
    kernel.On(KVM_SET_MEMORY_ATTRIBUTES, [is_private](BorrowedFd, void* argument) {
      const auto* attributes = static_cast<const kvm_memory_attributes*>(argument);
      EXPECT_EQ(attributes->attributes, is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
      EXPECT_EQ(attributes->address, kPage);
      return SysResult{};
    });
    EXPECT_TRUE(vm->SetPrivate(kPage, kPage, is_private).ok());
  }
}

// ---- MOVE

TEST(VmMove, EinvalIsToldApartByASecondCallWithoutSource) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel, VmType::kSev);
  const BorrowedFd source(5);
  bool has_operation = true;
  kernel.On(KVM_ENABLE_CAP, [&has_operation](BorrowedFd, void* argument) {
    const auto* enable = static_cast<const kvm_enable_cap*>(argument);
    EXPECT_EQ(enable->cap, unsigned{KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM});
    const bool bad_fd = enable->args[0] == 0xffffffff;
    return SysResult{.value = -1, .error = has_operation && bad_fd ? EBADF : EINVAL};
  });
  absl::Status status = vm->MoveEncContextFrom(source);
  EXPECT_EQ(ReasonOf(status), "MOVE_MISMATCH") << status;
  has_operation = false;
  status = vm->MoveEncContextFrom(source);
  EXPECT_EQ(ReasonOf(status), "MOVE_UNSUPPORTED") << status;
}

TEST(VmMove, OtherErrorsAreNotAskedAgain) {
  const std::pair<int, const char*> cases[] = {
      {EBUSY, "MOVE_BUSY"}, {EBADF, "MOVE_BAD_SOURCE"}, {EINTR, "MOVE_INTERRUPTED"},
      {EIO, "VM_DEAD"},     {ENOMEM, "OUT_OF_MEMORY"},  {EFAULT, "MOVE_FAILED"}};
  for (const auto& [error, reason] : cases) {
    ScriptedKvm kernel;
    const std::unique_ptr<Vm> vm = NewVm(kernel, VmType::kSev);
    kernel.Fail(KVM_ENABLE_CAP, error);
    EXPECT_EQ(ReasonOf(vm->MoveEncContextFrom(BorrowedFd(5))), reason);
    EXPECT_EQ(kernel.Count(KVM_ENABLE_CAP), 1u);
  }
}

// ---- SEV

std::vector<uint32_t> LaunchCommands(ScriptedKvm& kernel, VmType type) {
  std::vector<uint32_t> commands;
  const std::unique_ptr<Vm> vm = NewVm(kernel, type);
  kernel.On(KVM_MEMORY_ENCRYPT_OP, [&commands](BorrowedFd, void* argument) {
    commands.push_back(static_cast<const kvm_sev_cmd*>(argument)->id);
    return SysResult{};
  });
  EXPECT_TRUE(vm->InitSev().ok());
  EXPECT_TRUE(
      vm->SetMemslot({.gpa = kPage, .size_bytes = 4 * kPage, .hva = kPage}, BorrowedFd()).ok());
  const MemoryRange measured[] = {{kPage, kPage}, {4 * kPage, kPage}};
  EXPECT_TRUE(vm->LaunchSev(measured).ok());
  return commands;
}

TEST(VmSev, LaunchFollowsTheFirmwaresStates) {
  ScriptedKvm kernel;
  EXPECT_EQ(LaunchCommands(kernel, VmType::kSev),
            (std::vector<uint32_t>{KVM_SEV_INIT2, KVM_SEV_LAUNCH_START, KVM_SEV_LAUNCH_UPDATE_DATA,
                                   KVM_SEV_LAUNCH_UPDATE_DATA, KVM_SEV_LAUNCH_MEASURE,
                                   KVM_SEV_LAUNCH_FINISH}));
  EXPECT_EQ(kernel.Count(KVM_MEMORY_ENCRYPT_REG_REGION), 2u);
}

TEST(VmSev, EncryptedStateIsMeasuredToo) {
  ScriptedKvm kernel;
  const std::vector<uint32_t> commands = LaunchCommands(kernel, VmType::kSevEs);
  ASSERT_EQ(commands.size(), 7u);
  EXPECT_EQ(commands[4], uint32_t{KVM_SEV_LAUNCH_UPDATE_VMSA});
}

TEST(VmSev, RefusesWhatCannotBeLaunched) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel, VmType::kSev);
  EXPECT_EQ(ReasonOf(vm->LaunchSev({})), "SEV_LAUNCH_REFUSED");  // not initialised
  ASSERT_TRUE(vm->InitSev().ok());
  ASSERT_TRUE(vm->SetMemslot({.gpa = kPage, .size_bytes = kPage, .hva = kPage}, BorrowedFd()).ok());
  const MemoryRange bad[] = {{0, kPage}, {kPage, 2 * kPage}, {2 * kPage, kPage}, {kPage, ~0ull}};
  for (const MemoryRange& range : bad) {
    EXPECT_EQ(ReasonOf(vm->LaunchSev({&range, 1})), "SEV_LAUNCH_REFUSED") << range.gpa;
  }
  ASSERT_TRUE(vm->DeleteMemslot(0, 0).ok());
  const MemoryRange gone = {kPage, kPage};
  EXPECT_EQ(ReasonOf(vm->LaunchSev({&gone, 1})), "SEV_LAUNCH_REFUSED");
}

TEST(VmSev, FirmwareErrorsAreNotADeadVm) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel, VmType::kSev);
  kernel.On(KVM_MEMORY_ENCRYPT_OP, [](BorrowedFd, void* argument) {
    static_cast<kvm_sev_cmd*>(argument)->error = 0x17;
    return SysResult{.value = -1, .error = EIO};
  });
  const absl::Status status = vm->InitSev();
  EXPECT_EQ(ReasonOf(status), "SEV_LAUNCH_FAILED");
  EXPECT_NE(status.message().find("0x17"), absl::string_view::npos) << status;
}

// ---- devices

TEST(VmDevices, TssAndIdentityMapComeBeforeTheIrqchip) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  ASSERT_TRUE(vm->CreateIrqchip().ok());
  EXPECT_EQ(kernel.calls, (std::vector<unsigned long>{KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR,
                                                      KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2}));
}

TEST(VmDevices, StateWithoutIrqchipIsTheClockOnly) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  VmState state;
  ASSERT_TRUE(vm->SaveState(state).ok());
  EXPECT_TRUE(state.Validate().ok());
  ASSERT_TRUE(vm->RestoreState(state).ok());
  EXPECT_EQ(kernel.calls, (std::vector<unsigned long>{KVM_GET_CLOCK, KVM_SET_CLOCK}));
}

// Whoever advances the clock over the pause, it is done once.
TEST(VmDevices, ClockIsAdvancedByTheKernelOrByUs) {
  constexpr uint64_t kClock = 1'000'000'000'000;
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  kvm_clock_data set = {};
  kernel.On(KVM_SET_CLOCK, [&set](BorrowedFd, void* argument) {
    set = *static_cast<const kvm_clock_data*>(argument);
    return SysResult{};
  });
  uint32_t flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
  kernel.On(KVM_GET_CLOCK, [&flags](BorrowedFd, void* argument) {
    auto* clock = static_cast<kvm_clock_data*>(argument);
    clock->clock = kClock;
    clock->flags = flags;
    clock->realtime = 77;
    return SysResult{};
  });
  VmState state;
  ASSERT_TRUE(vm->SaveState(state).ok());
  ASSERT_TRUE(vm->RestoreState(state).ok());
  EXPECT_EQ(set.clock, kClock);
  EXPECT_EQ(set.flags, unsigned{KVM_CLOCK_REALTIME});
  EXPECT_EQ(set.realtime, 77u);

  flags = KVM_CLOCK_TSC_STABLE;
  ASSERT_TRUE(vm->SaveState(state).ok());
  state.clock_read_ns -= 5'000'000;  // as if the pause had been so long
  ASSERT_TRUE(vm->RestoreState(state).ok());
  EXPECT_GE(set.clock, kClock + 5'000'000);
  EXPECT_EQ(set.flags, 0u);
}

TEST(VmDevices, EachFailingCallIsReported) {
  const unsigned long save[] = {KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK};
  const unsigned long restore[] = {KVM_SET_IRQCHIP, KVM_SET_PIT2, KVM_SET_CLOCK};
  for (size_t i = 0; i < std::size(save); ++i) {
    ScriptedKvm kernel;
    const std::unique_ptr<Vm> vm = NewVm(kernel);
    ASSERT_TRUE(vm->CreateIrqchip().ok());
    VmState state;
    ASSERT_TRUE(vm->SaveState(state).ok());
    kernel.Fail(save[i], EFAULT);
    VmState unused;
    EXPECT_EQ(ReasonOf(vm->SaveState(unused)), "VM_STATE_SAVE_FAILED");
    kernel.Fail(save[i], EIO);
    EXPECT_EQ(ReasonOf(vm->SaveState(unused)), "VM_DEAD");
    kernel.Fail(restore[i], EINVAL);
    EXPECT_EQ(ReasonOf(vm->RestoreState(state)), "VM_STATE_REFUSED");
    kernel.Fail(restore[i], EFAULT);
    EXPECT_EQ(ReasonOf(vm->RestoreState(state)), "VM_STATE_RESTORE_FAILED");
  }
}

TEST(VmProbe, EioMeansDead) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  EXPECT_TRUE(vm->Probe().ok());
  kernel.Fail(KVM_CHECK_EXTENSION, EIO);
  const absl::Status status = vm->Probe();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "VM_DEAD");
}

TEST(VmVcpu, CreationErrorsAreReported) {
  ScriptedKvm kernel;
  const std::unique_ptr<Vm> vm = NewVm(kernel);
  kernel.Fail(KVM_CREATE_VCPU, EEXIST);
  EXPECT_EQ(ReasonOf(vm->CreateVcpu(0).status()), "VCPU_EXISTS");
  kernel.Fail(KVM_CREATE_VCPU, EINVAL);
  EXPECT_EQ(ReasonOf(vm->CreateVcpu(5000).status()), "KVM_INVALID");
}

}  // namespace
}  // namespace rehome
