// SPDX-License-Identifier: Apache-2.0
//
// MOVE on other kernels than the default one, and for other types than SW_PROTECTED.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "kvmglue/sim/move.h"
#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

TEST(MoveOptionsTest, StockKernelGivesEinvalBeforeItLooksAtTheFd) {
  TestKernel kernel({.vm_types = {VmType::kDefault}, .move_types = {}});
  const UniqueFd destination = kernel.CreateVm(VmType::kDefault);
  const UniqueFd source = kernel.CreateVm(VmType::kDefault);
  EXPECT_EQ(kernel.Call(destination.borrow(), KVM_CHECK_EXTENSION, 206ul), 1);
  EXPECT_EQ(kernel.Move(destination.borrow(), BorrowedFd(-1)), -EINVAL);
  EXPECT_EQ(kernel.Move(destination.borrow(), source.borrow()), -EINVAL);
}

TEST(MoveOptionsTest, TypeWithoutMoveIsEinval) {
  TestKernel kernel({.move_types = {VmType::kSev}});
  const Guest source = MakeGuest(kernel, VmType::kSwProtected);
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  EXPECT_EQ(kernel.Move(target.vm.borrow(), BorrowedFd(-1)), -EBADF);
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  EXPECT_EQ(kernel.Run(source.vcpus[0].borrow(), Program::kHalt).result, 0);
}

TEST(MoveOptionsTest, TdxWithoutMoveIsEinvalWhateverTheFd) {
  TestKernel kernel({.move_types = {VmType::kSev}});
  const UniqueFd td = kernel.CreateVm(VmType::kTdx);
  EXPECT_EQ(kernel.Move(td.borrow(), BorrowedFd(-1)), -EINVAL);
}

TEST(MoveOptionsTest, SecondAddressSpaceIsComparedToo) {
  TestKernel kernel({.smm_with_private_memory = true});
  const Guest source = MakeGuest(kernel, VmType::kSwProtected);
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  const UniqueFd smram = kernel.CreateGuestMemfd(source.vm.borrow(), 4096);
  const UniqueFd link = kernel.Link(target.vm.borrow(), smram.borrow());
  ASSERT_EQ(kernel.Bind(source.vm.borrow(), 1 << 16, 0xa0000, 4096, smram.borrow()), 0);
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  ASSERT_EQ(kernel.Bind(target.vm.borrow(), 1 << 16, 0xa0000, 4096, link.borrow()), 0);
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), 0);
}

TEST(MoveOptionsTest, RfcV2LeavesTheSourceDeadAlthoughTheCallFailed) {
  TestKernel kernel({.rfc_v2_move = true, .rfc_v2_vendor_error = EIO});
  const Guest source = MakeGuest(kernel, VmType::kSwProtected);
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), -EIO);
  EXPECT_EQ(kernel.Call(source.vm.borrow(), KVM_CHECK_EXTENSION, 0ul), -EIO);
  EXPECT_EQ(kernel.Run(target.vcpus[0].borrow(), Program::kLoad, kGuestGpa).result, -EFAULT)
      << "the target did not get the guest either";
}

TEST(MoveOptionsTest, RfcV2ThrowsARunningSourceOutOfKvmRunWithEio) {
  TestKernel kernel({.gate = false, .rfc_v2_move = true});
  const Guest source = MakeGuest(kernel, VmType::kSwProtected);
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow());
  int run_result = 0;
  std::thread runner([&] {
    run_result = kernel.Run(source.vcpus[0].borrow(), Program::kCount, kGuestGpa).result;
  });
  ASSERT_TRUE(Eventually([&] {
    uint64_t value = 0;
    EXPECT_EQ(pread(source.memory.borrow().raw(), &value, sizeof(value), 0), 8);
    return value > 0;
  }));
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), 0);
  runner.join();
  EXPECT_EQ(run_result, -EIO);
}

TEST(MoveOptionsTest, RfcV2IgnoresVcpuCountAndSecondAddressSpace) {
  TestKernel kernel({.rfc_v2_move = true, .smm_with_private_memory = true});
  const Guest source = MakeGuest(kernel, VmType::kSwProtected, 2);
  const Guest target = MakeTarget(kernel, VmType::kSwProtected, source.memory.borrow(), 1);
  const UniqueFd smram = kernel.CreateGuestMemfd(source.vm.borrow(), 4096);
  ASSERT_EQ(kernel.Bind(source.vm.borrow(), 1 << 16, 0xa0000, 4096, smram.borrow()), 0);
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), 0);
}

// ---- TDX: the same rules, and registers go with the guest

TEST(MoveTdxTest, RegistersCannotBeReadAndStillMove) {
  TestKernel kernel;
  const Guest source = MakeGuest(kernel, VmType::kTdx);
  kvm_regs regs;
  EXPECT_EQ(kernel.Call(source.vcpus[0].borrow(), KVM_GET_REGS, &regs), -EINVAL);
  EXPECT_EQ(kernel.ResumeToOut(source.vcpus[0].borrow()), 1u);
  EXPECT_EQ(kernel.ResumeToOut(source.vcpus[0].borrow()), 2u);
  const Guest target = MakeTarget(kernel, VmType::kTdx, source.memory.borrow());
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), 0);
  EXPECT_EQ(kernel.Resume(source.vcpus[0].borrow()).result, -EIO);
  EXPECT_EQ(kernel.ResumeToOut(target.vcpus[0].borrow()), 3u);
}

TEST(MoveTdxTest, OtherVcpuCountIsEinval) {
  TestKernel kernel;
  const Guest source = MakeGuest(kernel, VmType::kTdx, 2);
  const Guest target = MakeTarget(kernel, VmType::kTdx, source.memory.borrow(), 1);
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
}

TEST(MoveSnpTest, IsAlwaysEinval) {
  TestKernel kernel;
  const Guest source = MakeGuest(kernel, VmType::kSnp);
  const Guest target = MakeTarget(kernel, VmType::kSnp, source.memory.borrow());
  EXPECT_EQ(kernel.Move(target.vm.borrow(), source.vm.borrow()), -EINVAL);
  EXPECT_EQ(kernel.Run(source.vcpus[0].borrow(), Program::kHalt).result, 0);
}

}  // namespace
}  // namespace rehome::sim
