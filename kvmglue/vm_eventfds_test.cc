// SPDX-License-Identifier: Apache-2.0
//
// irqfds and ioeventfds of Vm: what is asked of the kernel, and what its answers mean.
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

using testing::ScriptedKvm;

constexpr uint64_t kGpa = 0xd0000050;
constexpr BorrowedFd kEventfd(7);

class VmEventfdsTest : public ::testing::Test {
 protected:
  VmEventfdsTest() {
    kernel_.On(KVM_IRQFD, [this](BorrowedFd, void* argument) {
      irqfds_.push_back(*static_cast<const kvm_irqfd*>(argument));
      return SysResult{};
    });
    kernel_.On(KVM_IOEVENTFD, [this](BorrowedFd, void* argument) {
      ioeventfds_.push_back(*static_cast<const kvm_ioeventfd*>(argument));
      return SysResult{};
    });
    vm_ = Vm::Create(kernel_, VmType::kDefault, LinkAbi{}).value();
  }

  ScriptedKvm kernel_;
  std::unique_ptr<Vm> vm_;
  std::vector<kvm_irqfd> irqfds_;
  std::vector<kvm_ioeventfd> ioeventfds_;
};

TEST_F(VmEventfdsTest, AnIrqfdIsAnEdgeOfItsLine) {
  ASSERT_TRUE(vm_->CreateIrqchip().ok());
  ASSERT_TRUE(vm_->AssignIrqfd(kEventfd, 5).ok());
  ASSERT_TRUE(vm_->DeassignIrqfd(kEventfd, 5).ok());
  ASSERT_EQ(irqfds_.size(), 2u);
  for (const kvm_irqfd& irqfd : irqfds_) {
    EXPECT_EQ(irqfd.fd, 7u);
    EXPECT_EQ(irqfd.gsi, 5u);
    EXPECT_EQ(irqfd.resamplefd, 0u);
  }
  EXPECT_EQ(irqfds_[0].flags, 0u);  // no resampling: an edge
  EXPECT_EQ(irqfds_[1].flags, unsigned{KVM_IRQFD_FLAG_DEASSIGN});
}

TEST_F(VmEventfdsTest, WithoutIrqchipThereIsNoLine) {
  const absl::Status status = vm_->AssignIrqfd(kEventfd, 5);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "IRQCHIP_MISSING");
  EXPECT_TRUE(irqfds_.empty());
}

TEST_F(VmEventfdsTest, AnIoeventfdIsAWriteOfFourBytesOfAnyValue) {
  ASSERT_TRUE(vm_->AssignIoeventfd(kEventfd, kGpa).ok());
  ASSERT_TRUE(vm_->DeassignIoeventfd(kEventfd, kGpa).ok());
  ASSERT_EQ(ioeventfds_.size(), 2u);
  for (const kvm_ioeventfd& ioeventfd : ioeventfds_) {
    EXPECT_EQ(ioeventfd.addr, kGpa);
    EXPECT_EQ(ioeventfd.len, 4u);
    EXPECT_EQ(ioeventfd.fd, 7);
    EXPECT_EQ(ioeventfd.datamatch, 0u);
  }
  EXPECT_EQ(ioeventfds_[0].flags, 0u);  // memory, not a port; no data match
  EXPECT_EQ(ioeventfds_[1].flags, unsigned{KVM_IOEVENTFD_FLAG_DEASSIGN});
}

TEST_F(VmEventfdsTest, ErrorsAreTranslated) {
  ASSERT_TRUE(vm_->CreateIrqchip().ok());
  const std::pair<int, const char*> irqfd[] = {
      {EBUSY, "IRQFD_BUSY"}, {EINVAL, "KVM_INVALID"}, {EIO, "VM_DEAD"}, {EFAULT, "KVM_FAILED"}};
  for (const auto& [error, reason] : irqfd) {
    kernel_.Fail(KVM_IRQFD, error);
    EXPECT_EQ(ReasonOf(vm_->AssignIrqfd(kEventfd, 5)), reason);
    EXPECT_EQ(ReasonOf(vm_->DeassignIrqfd(kEventfd, 5)), reason);
  }
  const std::pair<int, const char*> ioeventfd[] = {{EEXIST, "IOEVENTFD_EXISTS"},
                                                   {ENOENT, "IOEVENTFD_MISSING"},
                                                   {ENOSPC, "IOEVENTFD_LIMIT"},
                                                   {EINVAL, "KVM_INVALID"},
                                                   {EIO, "VM_DEAD"},
                                                   {EFAULT, "KVM_FAILED"}};
  for (const auto& [error, reason] : ioeventfd) {
    kernel_.Fail(KVM_IOEVENTFD, error);
    EXPECT_EQ(ReasonOf(vm_->AssignIoeventfd(kEventfd, kGpa)), reason);
    EXPECT_EQ(ReasonOf(vm_->DeassignIoeventfd(kEventfd, kGpa)), reason);
  }
}

}  // namespace
}  // namespace rehome
