// SPDX-License-Identifier: Apache-2.0
//
// irqfds and ioeventfds on real KVM: the rules by which a move takes a guest's devices from one VM
// to another.
#include "kvmglue/vm.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm_state.h"
#include "kvmglue/why_no_kvm.h"

namespace rehome {
namespace {

constexpr uint32_t kGsi = 5;
constexpr uint64_t kGpa = 0xd0000050;

class VmEventfdsOnKvm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
    vm_ = NewVm();
    eventfd_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    ASSERT_TRUE(eventfd_.valid());
  }

  std::unique_ptr<Vm> NewVm() {
    absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(*kernel_, VmType::kDefault, LinkAbi{});
    EXPECT_TRUE(vm.ok()) << vm.status();
    EXPECT_TRUE((*vm)->CreateIrqchip().ok());
    return *std::move(vm);
  }
  void Signal() {
    const uint64_t one = 1;
    ASSERT_EQ(write(eventfd_.borrow().raw(), &one, sizeof(one)), ssize_t{sizeof(one)});
  }
  // An edge stays in the PIC until somebody takes the interrupt, which nobody does here.
  static bool HasEdge(Vm& vm) {
    VmState state;
    EXPECT_TRUE(vm.SaveState(state).ok());
    return (state.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.irr & 1u << kGsi) != 0;
  }

  std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<Vm> vm_;
  UniqueFd eventfd_;
};

TEST_F(VmEventfdsOnKvm, AnEdgeIsInTheSavedStateOnceTheIrqfdIsGone) {
  ASSERT_TRUE(vm_->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  EXPECT_FALSE(HasEdge(*vm_));
  Signal();
  ASSERT_TRUE(vm_->DeassignIrqfd(eventfd_.borrow(), kGsi).ok());
  EXPECT_TRUE(HasEdge(*vm_));
}

TEST_F(VmEventfdsOnKvm, WhatWasSignalledBeforeItIsAssignedCounts) {
  Signal();
  ASSERT_TRUE(vm_->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  ASSERT_TRUE(vm_->DeassignIrqfd(eventfd_.borrow(), kGsi).ok());
  EXPECT_TRUE(HasEdge(*vm_));
}

TEST_F(VmEventfdsOnKvm, AnEventfdIsOneLine) {
  ASSERT_TRUE(vm_->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  EXPECT_EQ(ReasonOf(vm_->AssignIrqfd(eventfd_.borrow(), kGsi)), "IRQFD_BUSY");
  EXPECT_EQ(ReasonOf(vm_->AssignIrqfd(eventfd_.borrow(), kGsi + 1)), "IRQFD_BUSY");
}

TEST_F(VmEventfdsOnKvm, AnEventfdIsOneLineOnTheWholeHost) {
  const std::unique_ptr<Vm> target = NewVm();
  ASSERT_TRUE(vm_->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  const absl::Status second = target->AssignIrqfd(eventfd_.borrow(), kGsi);
  if (second.ok()) GTEST_SKIP() << "this kernel lets two VMs listen to one eventfd";
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(second), "IRQFD_BUSY") << second;
  ASSERT_TRUE(vm_->DeassignIrqfd(eventfd_.borrow(), kGsi).ok());
  ASSERT_TRUE(target->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  Signal();
  ASSERT_TRUE(target->DeassignIrqfd(eventfd_.borrow(), kGsi).ok());
  EXPECT_TRUE(HasEdge(*target));
  EXPECT_FALSE(HasEdge(*vm_));
}

TEST_F(VmEventfdsOnKvm, ANewVmsLineIsFreeOnceTheOldVmIsGone) {
  ASSERT_TRUE(vm_->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
  vm_.reset();
  EXPECT_TRUE(NewVm()->AssignIrqfd(eventfd_.borrow(), kGsi).ok());
}

TEST_F(VmEventfdsOnKvm, BadIrqfdsAreRefused) {
  EXPECT_TRUE(vm_->DeassignIrqfd(eventfd_.borrow(), kGsi).ok());  // none to let go
  EXPECT_EQ(ReasonOf(vm_->AssignIrqfd(vm_->fd(), kGsi)), "KVM_INVALID");
  EXPECT_EQ(ReasonOf(vm_->AssignIrqfd(BorrowedFd(1 << 20), kGsi)), "BAD_FD");
}

TEST_F(VmEventfdsOnKvm, AnAddressHasOneIoeventfdPerVm) {
  ASSERT_TRUE(vm_->AssignIoeventfd(eventfd_.borrow(), kGpa).ok());
  EXPECT_EQ(ReasonOf(vm_->AssignIoeventfd(eventfd_.borrow(), kGpa)), "IOEVENTFD_EXISTS");
  // Nobody keeps two VMs from one eventfd: the source lets go by itself.
  const std::unique_ptr<Vm> target = NewVm();
  EXPECT_TRUE(target->AssignIoeventfd(eventfd_.borrow(), kGpa).ok());
  ASSERT_TRUE(vm_->DeassignIoeventfd(eventfd_.borrow(), kGpa).ok());
  EXPECT_EQ(ReasonOf(vm_->DeassignIoeventfd(eventfd_.borrow(), kGpa)), "IOEVENTFD_MISSING");
  EXPECT_TRUE(vm_->AssignIoeventfd(eventfd_.borrow(), kGpa).ok());
}

TEST_F(VmEventfdsOnKvm, BadIoeventfdsAreRefused) {
  EXPECT_EQ(ReasonOf(vm_->AssignIoeventfd(vm_->fd(), kGpa)), "KVM_INVALID");
  EXPECT_EQ(ReasonOf(vm_->AssignIoeventfd(BorrowedFd(1 << 20), kGpa)), "BAD_FD");
  EXPECT_EQ(ReasonOf(vm_->AssignIoeventfd(eventfd_.borrow(), UINT64_MAX - 1)), "KVM_INVALID");
}

}  // namespace
}  // namespace rehome
