// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/guest_memfd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

struct stat Status(BorrowedFd fd) {
  struct stat status = {};
  EXPECT_EQ(fstat(fd.raw(), &status), 0);
  return status;
}

class GuestMemfdTest : public ::testing::Test {
 protected:
  int Map(BorrowedFd fd, void** address) {
    const SysResult result = kernel_.kernel().MapShared(fd, 4096, 0, address);
    return result.ok() ? 0 : -result.error;
  }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kDefault);
  UniqueFd protected_vm_ = kernel_.CreateVm(VmType::kSwProtected);
  void* address_ = nullptr;
};

// ---- KVM_CREATE_GUEST_MEMFD

TEST_F(GuestMemfdTest, SizeMustBePagesAndNotZero) {
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm_.borrow(), 0, 0), -EINVAL);
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm_.borrow(), 4097, 0), -EINVAL);
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm_.borrow(), ~uint64_t{0xfff}, 0), -EINVAL);
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CREATE_GUEST_MEMFD, 0ul), -EFAULT);
}

TEST_F(GuestMemfdTest, FlagsAreThoseThatTheCapabilityNames) {
  for (uint64_t flags = 0; flags < 4; ++flags) {
    EXPECT_TRUE(kernel_.CreateGuestMemfd(vm_.borrow(), 4096, flags).valid());
  }
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm_.borrow(), 4096, 4), -EINVAL);
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS), 3);
}

TEST_F(GuestMemfdTest, InitSharedIsRefusedWhereMemoryIsSplit) {
  for (const VmType type : {VmType::kSwProtected, VmType::kSnp, VmType::kTdx}) {
    const UniqueFd vm = kernel_.CreateVm(type);
    EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm.borrow(), 4096, GUEST_MEMFD_FLAG_INIT_SHARED),
              -EINVAL);
    EXPECT_TRUE(kernel_.CreateGuestMemfd(vm.borrow(), 4096, GUEST_MEMFD_FLAG_MMAP).valid());
    EXPECT_EQ(kernel_.Call(vm.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS), 1);
  }
}

TEST_F(GuestMemfdTest, EachHasItsOwnInodeAndSize) {
  const UniqueFd a = kernel_.CreateGuestMemfd(vm_.borrow(), 4096);
  const UniqueFd b = kernel_.CreateGuestMemfd(vm_.borrow(), 0x10000);
  EXPECT_NE(Status(a.borrow()).st_ino, Status(b.borrow()).st_ino);
  EXPECT_EQ(Status(b.borrow()).st_size, 0x10000);
}

TEST_F(GuestMemfdTest, SizeIsFixed) {
  const UniqueFd memory = kernel_.CreateGuestMemfd(vm_.borrow(), 8192);
  EXPECT_NE(ftruncate(memory.borrow().raw(), 4096), 0);
  EXPECT_NE(ftruncate(memory.borrow().raw(), 16384), 0);
}

TEST_F(GuestMemfdTest, FileTableOfAVmIsBounded) {
  for (uint32_t i = 0; i < kMaxGuestMemfdFiles; ++i) {
    ASSERT_TRUE(kernel_.CreateGuestMemfd(vm_.borrow(), 4096).valid());
  }
  EXPECT_EQ(kernel_.TryCreateGuestMemfd(vm_.borrow(), 4096, 0), -ENFILE);
}

// ---- mmap

TEST_F(GuestMemfdTest, MapWithoutTheMmapFlagIsEnodev) {
  EXPECT_EQ(Map(kernel_.CreateGuestMemfd(vm_.borrow(), 4096, 0).borrow(), &address_), -ENODEV);
  EXPECT_EQ(Map(kernel_.CreateGuestMemfd(vm_.borrow(), 4096, 2).borrow(), &address_), -ENODEV);
}

TEST_F(GuestMemfdTest, SharedMappingIsTheGuestsMemory) {
  const UniqueFd memory = kernel_.CreateGuestMemfd(vm_.borrow(), 4096, 3);
  ASSERT_EQ(kernel_.Bind(vm_.borrow(), 0, 0, 4096, memory.borrow()), 0);
  ASSERT_EQ(Map(memory.borrow(), &address_), 0);
  *static_cast<uint64_t*>(address_) = 42;
  const UniqueFd vcpu = kernel_.CreateVcpu(vm_.borrow());
  EXPECT_EQ(kernel_.Run(vcpu.borrow(), Program::kLoad, 0).regs.rcx, 42u);
}

TEST_F(GuestMemfdTest, PrivateMappingRaisesSigbusWhenTouched) {
  const UniqueFd memory =
      kernel_.CreateGuestMemfd(protected_vm_.borrow(), 4096, GUEST_MEMFD_FLAG_MMAP);
  ASSERT_EQ(Map(memory.borrow(), &address_), 0);
  Child toucher([&](BorrowedFd) {
    signal(SIGBUS, SIG_DFL);  // not a sanitizer's
    *static_cast<volatile uint8_t*>(address_) = 1;
    return 0;
  });
  EXPECT_EQ(toucher.Wait(), 128 + SIGBUS);
}

// ---- KVM_LINK_GUEST_MEMFD: guest_memfd_test.c, test_link, and each cause alone

class LinkTest : public GuestMemfdTest {
 protected:
  UniqueFd other_ = kernel_.CreateVm(VmType::kSwProtected);
  UniqueFd memory_ = kernel_.CreateGuestMemfd(protected_vm_.borrow(), 0x10000);
};

TEST_F(LinkTest, LinkIsAnotherFileOfTheSameInode) {
  const UniqueFd link = kernel_.Link(other_.borrow(), memory_.borrow());
  EXPECT_NE(link.borrow().raw(), memory_.borrow().raw());
  EXPECT_EQ(Status(link.borrow()).st_ino, Status(memory_.borrow()).st_ino);
  EXPECT_EQ(Status(link.borrow()).st_dev, Status(memory_.borrow()).st_dev);
  EXPECT_EQ(Status(link.borrow()).st_size, 0x10000);
}

TEST_F(LinkTest, LinkBelongsToTheNewVmAndTheSourceToTheOld) {
  const UniqueFd link = kernel_.Link(other_.borrow(), memory_.borrow());
  EXPECT_EQ(kernel_.Bind(protected_vm_.borrow(), 0, 0, 4096, link.borrow()), -EINVAL);
  EXPECT_EQ(kernel_.Bind(other_.borrow(), 0, 0, 4096, memory_.borrow()), -EINVAL);
  EXPECT_EQ(kernel_.Bind(other_.borrow(), 0, 0, 4096, link.borrow()), 0);
  EXPECT_EQ(kernel_.Bind(protected_vm_.borrow(), 0, 0, 4096, memory_.borrow()), 0);
}

TEST_F(LinkTest, DuplicatesOfAFdBelongToTheSameVm) {
  const UniqueFd link = kernel_.Link(other_.borrow(), memory_.borrow());
  const UniqueFd copy = *Duplicate(link.borrow());
  EXPECT_EQ(kernel_.Bind(other_.borrow(), 0, 0, 4096, copy.borrow()), 0);
}

TEST_F(LinkTest, FlagsAreEinval) {
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), memory_.borrow(), 1), -EINVAL);
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), memory_.borrow(), ~uint64_t{0}), -EINVAL);
}

TEST_F(LinkTest, ClosedFdIsEinvalNotEbadf) {
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), BorrowedFd(999)), -EINVAL);
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), BorrowedFd(-1)), -EINVAL);
}

TEST_F(LinkTest, FdThatIsNoGuestMemfdIsEinval) {
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), BorrowedFd(0)), -EINVAL);
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), protected_vm_.borrow()), -EINVAL);
  const UniqueFd memfd(memfd_create("kvm-gmem", MFD_CLOEXEC));
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), memfd.borrow()), -EINVAL);
}

TEST_F(LinkTest, PatchLooksAtWhatTheRfcIgnores) {
  LinkGuestMemfdArgs reserved = {.fd = static_cast<uint64_t>(memory_.borrow().raw()),
                                 .flags = 0,
                                 .reserved = {0, 0, 0, 0, 0, 1}};
  LinkGuestMemfdArgs upper_half = {
      .fd = reserved.fd | uint64_t{1} << 32, .flags = 0, .reserved = {}};
  TestKernel rfc({.gate = false});
  const UniqueFd vm = rfc.CreateVm(VmType::kSwProtected);
  for (LinkGuestMemfdArgs* request : {&reserved, &upper_half}) {
    EXPECT_EQ(kernel_.Call(other_.borrow(), LinkGuestMemfdRequest(0xd6), request), -EINVAL);
    const UniqueFd link(
        static_cast<int>(rfc.Call(vm.borrow(), LinkGuestMemfdRequest(0xd6), request)));
    EXPECT_TRUE(link.valid());
    EXPECT_EQ(fcntl(link.borrow().raw(), F_GETFD), 0) << "the RFC leaves close-on-exec open";
  }
  const UniqueFd link = kernel_.Link(other_.borrow(), memory_.borrow());
  EXPECT_EQ(fcntl(link.borrow().raw(), F_GETFD), FD_CLOEXEC);
}

TEST_F(LinkTest, SameVmIsEinval) {
  EXPECT_EQ(kernel_.TryLink(protected_vm_.borrow(), memory_.borrow()), -EINVAL);
  const UniqueFd link = kernel_.Link(other_.borrow(), memory_.borrow());
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), link.borrow()), -EINVAL);
  EXPECT_TRUE(kernel_.Link(other_.borrow(), memory_.borrow()).valid()) << "twice is not forbidden";
}

TEST_F(LinkTest, NoArgumentIsEfault) {
  EXPECT_EQ(kernel_.Call(other_.borrow(), LinkGuestMemfdRequest(0xd6), 0ul), -EFAULT);
}

TEST_F(LinkTest, FdLimitIsEmfileAndComesLast) {
  const NoMoreFds limit;
  EXPECT_EQ(kernel_.TryLink(protected_vm_.borrow(), memory_.borrow()), -EINVAL);
  EXPECT_EQ(kernel_.TryLink(other_.borrow(), memory_.borrow()), -EMFILE);
}

TEST_F(LinkTest, KernelWithoutTheIoctlGivesEnotty) {
  TestKernel stock({.link_ioctl_number = std::nullopt});
  const UniqueFd vm = stock.CreateVm(VmType::kSwProtected);
  EXPECT_EQ(stock.TryLink(vm.borrow(), memory_.borrow()), -ENOTTY);
  TestKernel rfc_v1({.link_ioctl_number = 0xd5});
  const UniqueFd old = rfc_v1.CreateVm(VmType::kSwProtected);
  EXPECT_EQ(rfc_v1.TryLink(old.borrow(), memory_.borrow()), -ENOTTY);
  LinkGuestMemfdArgs request = {.fd = 0, .flags = ~uint64_t{0}, .reserved = {}};
  EXPECT_EQ(rfc_v1.Call(old.borrow(), LinkGuestMemfdRequest(0xd5), &request), -EINVAL)
      << "the probe without side effects";
}

TEST_F(LinkTest, DeadSourceCanStillBeLinked) {
  const Guest source = MakeGuest(kernel_, VmType::kSwProtected);
  const Guest target = MakeTarget(kernel_, VmType::kSwProtected, source.memory.borrow());
  ASSERT_EQ(kernel_.Move(target.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_TRUE(kernel_.Link(other_.borrow(), source.memory.borrow()).valid());
}

// ---- the mapping gate

class GateTest : public ::testing::Test {
 protected:
  // private_mem_migrate_tests.c: the source writes, the destination links, binds and sets PRIVATE.
  RunResult ReadWithoutMove(TestKernel& kernel) {
    source_ = MakeGuest(kernel, VmType::kSwProtected);
    EXPECT_EQ(kernel.Run(source_.vcpus[0].borrow(), Program::kStore, kGuestGpa, 0xdeadbeef).result,
              0);
    target_ = MakeTarget(kernel, VmType::kSwProtected, source_.memory.borrow());
    EXPECT_EQ(kernel.SetPrivate(target_.vm.borrow(), kGuestGpa, kGuestSize, true), 0);
    return kernel.Run(target_.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
  }

  Guest source_, target_;
};

TEST_F(GateTest, WithoutTheGateTheRfcsSelftestReadsTheSourcesData) {
  TestKernel kernel({.gate = false});
  const RunResult run = ReadWithoutMove(kernel);
  EXPECT_EQ(run.result, 0);
  EXPECT_EQ(run.regs.rcx, 0xdeadbeef);
}

TEST_F(GateTest, WithTheGateItFaultsUntilMoved) {
  TestKernel kernel;
  const RunResult before = ReadWithoutMove(kernel);
  EXPECT_EQ(before.result, -EFAULT);
  EXPECT_EQ(before.exit_reason, static_cast<uint32_t>(KVM_EXIT_MEMORY_FAULT));
  kvm_run* run = kernel.Map(target_.vcpus[0].borrow());
  MemoryFaultExit fault;
  std::memcpy(&fault, &run->hw, sizeof(fault));
  EXPECT_EQ(fault.gpa, kGuestGpa);
  EXPECT_EQ(fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
  EXPECT_EQ(fault.size, 4096u);

  ASSERT_EQ(kernel.Move(target_.vm.borrow(), source_.vm.borrow()), 0);
  const RunResult after = kernel.Run(target_.vcpus[0].borrow(), Program::kLoad, kGuestGpa);
  EXPECT_EQ(after.result, 0);
  EXPECT_EQ(after.regs.rcx, 0xdeadbeef);
}

TEST_F(GateTest, LinkThatWasNotBoundAtMoveStaysShut) {
  TestKernel kernel;
  ReadWithoutMove(kernel);
  const UniqueFd unbound = kernel.Link(target_.vm.borrow(), source_.memory.borrow());
  ASSERT_EQ(kernel.Move(target_.vm.borrow(), source_.vm.borrow()), 0);
  ASSERT_EQ(kernel.Bind(target_.vm.borrow(), 20, 0x40000000, 4096, unbound.borrow()), 0);
  ASSERT_EQ(kernel.SetPrivate(target_.vm.borrow(), 0x40000000, 4096, true), 0);
  EXPECT_EQ(kernel.Run(target_.vcpus[0].borrow(), Program::kLoad, 0x40000000).result, -EFAULT);
}

TEST_F(GateTest, MapOfAGatedLinkIsEpermUntilMoved) {
  TestKernel kernel;
  const UniqueFd source = kernel.CreateVm(VmType::kSev);
  const UniqueFd target = kernel.CreateVm(VmType::kSev);
  const UniqueFd memory = kernel.CreateGuestMemfd(source.borrow(), 4096, 3);
  const UniqueFd link = kernel.Link(target.borrow(), memory.borrow());
  ASSERT_EQ(kernel.Bind(target.borrow(), 0, 0, 4096, link.borrow()), 0);
  void* address = nullptr;
  EXPECT_EQ(kernel.kernel().MapShared(link.borrow(), 4096, 0, &address).error, EPERM);
  kvm_sev_init init = {};
  kvm_sev_cmd command = {};
  command.id = KVM_SEV_INIT2;
  command.data = reinterpret_cast<uint64_t>(&init);
  ASSERT_EQ(kernel.Call(source.borrow(), KVM_MEMORY_ENCRYPT_OP, &command), 0);
  ASSERT_EQ(kernel.Move(target.borrow(), source.borrow()), 0);
  EXPECT_TRUE(kernel.kernel().MapShared(link.borrow(), 4096, 0, &address).ok());
  // A process that does not own the VM cannot know that the gate is open.
  TestKernel stranger;
  EXPECT_EQ(stranger.kernel().MapShared(link.borrow(), 4096, 0, &address).error, EPERM);
}

TEST_F(GateTest, DefaultVmsHaveNoGateBecauseTheyHaveNoMove) {
  TestKernel kernel;
  const UniqueFd source = kernel.CreateVm(VmType::kDefault);
  const UniqueFd target = kernel.CreateVm(VmType::kDefault);
  const UniqueFd memory = kernel.CreateGuestMemfd(source.borrow(), 4096, 3);
  const UniqueFd link = kernel.Link(target.borrow(), memory.borrow());
  ASSERT_EQ(kernel.Bind(target.borrow(), 0, 0, 4096, link.borrow()), 0);
  const UniqueFd vcpu = kernel.CreateVcpu(target.borrow());
  EXPECT_EQ(kernel.Run(vcpu.borrow(), Program::kStore, 0, 42).result, 0);
  uint64_t value = 0;
  EXPECT_EQ(pread(memory.borrow().raw(), &value, sizeof(value), 0), 8);
  EXPECT_EQ(value, 42u);
  void* address = nullptr;
  EXPECT_TRUE(kernel.kernel().MapShared(link.borrow(), 4096, 0, &address).ok());
}

}  // namespace
}  // namespace rehome::sim
