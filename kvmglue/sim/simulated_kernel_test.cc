// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/simulated_kernel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

TEST(SimulatedKernelTest, IoctlOnAClosedFdIsEbadf) {
  TestKernel kernel;
  UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const BorrowedFd closed(vm.borrow().raw());
  vm.Reset();
  EXPECT_EQ(kernel.Call(closed, KVM_CHECK_EXTENSION, 0ul), -EBADF);
}

TEST(SimulatedKernelTest, IoctlOnAForeignFileIsEnotty) {
  TestKernel kernel;
  const UniqueFd memfd(memfd_create("kvm-vm", MFD_CLOEXEC));
  EXPECT_EQ(kernel.Call(memfd.borrow(), KVM_CHECK_EXTENSION, 0ul), -ENOTTY);
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd read_end(pipe_fds[0]);
  const UniqueFd write_end(pipe_fds[1]);
  EXPECT_EQ(kernel.Call(read_end.borrow(), KVM_RUN, 0ul), -ENOTTY);
}

TEST(SimulatedKernelTest, UnknownRequestsGiveWhatTheKernelGives) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow());
  const UniqueFd memory = kernel.CreateGuestMemfd(vm.borrow(), 4096);
  const unsigned long unknown = _IO(KVMIO, 0xdf);
  EXPECT_EQ(kernel.Call(kernel.kvm(), unknown, 0ul), -EINVAL);
  EXPECT_EQ(kernel.Call(vm.borrow(), unknown, 0ul), -ENOTTY);
  EXPECT_EQ(kernel.Call(vcpu.borrow(), unknown, 0ul), -EINVAL);
  EXPECT_EQ(kernel.Call(memory.borrow(), unknown, 0ul), -ENOTTY);
}

TEST(SimulatedKernelTest, AllFdsAreCloseOnExecButThoseOfNewGuestMemfds) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kSwProtected);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow());
  const UniqueFd memory = kernel.CreateGuestMemfd(vm.borrow(), 4096);
  const UniqueFd other = kernel.CreateVm(VmType::kSwProtected);
  const UniqueFd link = kernel.Link(other.borrow(), memory.borrow());
  EXPECT_EQ(fcntl(kernel.kvm().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(vm.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(vcpu.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(memory.borrow().raw(), F_GETFD), 0);
  EXPECT_EQ(fcntl(link.borrow().raw(), F_GETFD), FD_CLOEXEC);
}

TEST(SimulatedKernelTest, VcpuNumbersAreCheckedAndUnique) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow(), 5);
  EXPECT_EQ(kernel.Call(vm.borrow(), KVM_CREATE_VCPU, 5ul), -EEXIST);
  EXPECT_EQ(kernel.Call(vm.borrow(), KVM_CREATE_VCPU, 64ul), -EINVAL);
}

TEST(SimulatedKernelTest, SixtyFourVcpusFit) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  std::vector<UniqueFd> vcpus;
  for (uint32_t id = 0; id < 64; ++id) vcpus.push_back(kernel.CreateVcpu(vm.borrow(), id));
  const RunResult run = kernel.Run(vcpus.back().borrow(), Program::kReadTsc);
  EXPECT_EQ(run.result, 0);
  EXPECT_EQ(run.regs.rcx, 63u);
}

TEST(SimulatedKernelTest, OpenFilesAreTheLimitAsInTheKernel) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kSwProtected);
  const NoMoreFds limit;
  EXPECT_EQ(kernel.TryCreateVm(0), -EMFILE);
  EXPECT_EQ(kernel.TryCreateGuestMemfd(vm.borrow(), 4096, 0), -EMFILE);
  EXPECT_EQ(kernel.Call(vm.borrow(), KVM_CREATE_VCPU, 0ul), -EMFILE);
}

TEST(SimulatedKernelTest, RunAreaIsSharedBetweenItsMappings) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd first = kernel.CreateVcpu(vm.borrow(), 0);
  const UniqueFd second = kernel.CreateVcpu(vm.borrow(), 1);
  kvm_run* mapped = kernel.Map(first.borrow());
  kvm_run* again = kernel.Map(first.borrow());
  kvm_run* other = kernel.Map(second.borrow());
  mapped->immediate_exit = 1;
  EXPECT_EQ(again->immediate_exit, 1);
  EXPECT_EQ(other->immediate_exit, 0);
}

TEST(SimulatedKernelTest, MappingBeyondTheRunAreaIsRefused) {
  TestKernel kernel;
  const UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow());
  void* address = nullptr;
  SimulatedKernel& sim = kernel.kernel();
  EXPECT_EQ(sim.MapShared(vcpu.borrow(), 4 * 4096, 0, &address).error, EINVAL);
  EXPECT_EQ(sim.MapShared(vcpu.borrow(), 4096, 3 * 4096, &address).error, EINVAL);
  EXPECT_EQ(sim.MapShared(vm.borrow(), 4096, 0, &address).error, ENODEV);
  EXPECT_EQ(sim.MapShared(kernel.kvm(), 4096, 0, &address).error, ENODEV);
  EXPECT_EQ(sim.MapShared(BorrowedFd(-1), 4096, 0, &address).error, EBADF);
}

TEST(SimulatedKernelTest, OrdinaryFilesAreMappedAsTheyAre) {
  TestKernel kernel;
  const UniqueFd memfd(memfd_create("ram", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memfd.borrow().raw(), 8192), 0);
  void* address = nullptr;
  ASSERT_TRUE(kernel.kernel().MapShared(memfd.borrow(), 4096, 4096, &address).ok());
  *static_cast<uint32_t*>(address) = 42;
  uint32_t value = 0;
  ASSERT_EQ(pread(memfd.borrow().raw(), &value, sizeof(value), 4096), 4);
  EXPECT_EQ(value, 42u);
  munmap(address, 4096);
}

TEST(SimulatedKernelTest, ManyVmsInARowLeaveNothingOpen) {
  TestKernel kernel;
  const auto open_files = [] {
    int count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    return count;
  };
  { const Guest guest = MakeGuest(kernel, VmType::kSwProtected); }
  const int before = open_files();
  for (int i = 0; i < 300; ++i) const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  EXPECT_EQ(open_files(), before);
}

TEST(SimulatedKernelTest, ReportsItselfAsSim) {
  TestKernel kernel;
  EXPECT_STREQ(kernel.kernel().Name(), "sim");
}

}  // namespace
}  // namespace rehome::sim
