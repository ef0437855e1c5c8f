// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/fault_injector.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint32_t kLinkNumber = 0xd6;

// Answers everything with success and remembers what reached it.
class RecordingKernel final : public KvmSyscalls {
 public:
  SysResult OpenKvm() override {
    ++opens;
    return {100, 0};
  }
  SysResult Ioctl(BorrowedFd, unsigned long request, void*) override {
    requests.push_back(request);
    return {200, 0};
  }
  SysResult MapShared(BorrowedFd, size_t, off_t, void**) override {
    ++maps;
    return {0, 0};
  }
  const char* Name() const override { return "recording"; }

  int opens = 0, maps = 0;
  std::vector<unsigned long> requests;
};

std::vector<Fault> Plan(std::string_view text) {
  auto plan = ParseFaultPlan(text, kLinkNumber);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *plan : std::vector<Fault>{};
}

class FaultInjectorTest : public ::testing::Test {
 protected:
  int Run(FaultInjector& injector) { return injector.Ioctl(BorrowedFd(3), KVM_RUN, nullptr).error; }

  RecordingKernel kernel_;
};

TEST_F(FaultInjectorTest, WithoutAPlanEverythingGoesThrough) {
  FaultInjector injector(kernel_, {});
  EXPECT_EQ(injector.OpenKvm().value, 100);
  EXPECT_EQ(injector.Ioctl(BorrowedFd(3), KVM_RUN, nullptr).value, 200);
  EXPECT_TRUE(injector.MapShared(BorrowedFd(3), 1, 0, nullptr).ok());
  EXPECT_STREQ(injector.Name(), "recording");
  EXPECT_EQ(injector.injected(), 0u);
}

TEST_F(FaultInjectorTest, OnceFailsOnlyThatCall) {
  FaultInjector injector(kernel_, Plan("KVM_RUN:2:EFAULT:once"));
  EXPECT_EQ(Run(injector), 0);
  EXPECT_EQ(Run(injector), EFAULT);
  EXPECT_EQ(Run(injector), 0);
  EXPECT_EQ(injector.injected(), 1u);
}

TEST_F(FaultInjectorTest, AlwaysFailsFromThatCallOn) {
  FaultInjector injector(kernel_, Plan("KVM_RUN:2:EIO:always"));
  EXPECT_EQ(Run(injector), 0);
  EXPECT_EQ(Run(injector), EIO);
  EXPECT_EQ(Run(injector), EIO);
  EXPECT_EQ(injector.injected(), 2u);
}

TEST_F(FaultInjectorTest, FailedCallsDoNotReachTheKernel) {
  FaultInjector injector(kernel_,
                         Plan("OPEN:1:EMFILE:always,MAP:1:ENOMEM:always,KVM_RUN:1:EINTR:always"));
  EXPECT_EQ(injector.OpenKvm().error, EMFILE);
  EXPECT_EQ(injector.MapShared(BorrowedFd(3), 1, 0, nullptr).error, ENOMEM);
  EXPECT_EQ(Run(injector), EINTR);
  EXPECT_EQ(kernel_.opens, 0);
  EXPECT_EQ(kernel_.maps, 0);
  EXPECT_TRUE(kernel_.requests.empty());
}

TEST_F(FaultInjectorTest, OperationsAreCountedApart) {
  FaultInjector injector(kernel_, Plan("KVM_ENABLE_CAP:1:EINVAL:once"));
  EXPECT_EQ(Run(injector), 0);
  EXPECT_EQ(injector.Ioctl(BorrowedFd(3), KVM_ENABLE_CAP, nullptr).error, EINVAL);
  EXPECT_EQ(injector.Ioctl(BorrowedFd(3), KVM_ENABLE_CAP, nullptr).error, 0);
  injector.OpenKvm();
  injector.Ioctl(BorrowedFd(3), 0xaedf, nullptr);
  const std::map<std::string, uint64_t> expected = {
      {"KVM_RUN", 1}, {"KVM_ENABLE_CAP", 2}, {"OPEN", 1}, {"0xaedf", 1}};
  EXPECT_EQ(injector.Calls(), expected);
}

TEST_F(FaultInjectorTest, SeveralFaultsOfOneOperationWorkTogether) {
  FaultInjector injector(kernel_, Plan("KVM_RUN:1:EINTR:once,KVM_RUN:3:EIO:once"));
  EXPECT_EQ(Run(injector), EINTR);
  EXPECT_EQ(Run(injector), 0);
  EXPECT_EQ(Run(injector), EIO);
}

TEST_F(FaultInjectorTest, LinkIsKnownByNameUnderItsConfiguredNumber) {
  const auto plan = ParseFaultPlan("KVM_LINK_GUEST_MEMFD:1:EINVAL:once", 0xd5);
  ASSERT_TRUE(plan.ok());
  FaultInjector injector(kernel_, *plan);
  EXPECT_EQ(injector.Ioctl(BorrowedFd(3), 0xc040aed5, nullptr).error, EINVAL);
}

TEST_F(FaultInjectorTest, EveryNameOfAPlanIsTheNameInTheCounts) {
  for (const char* name : {"OPEN", "MAP", "KVM_RUN", "KVM_SET_USER_MEMORY_REGION2", "0x1234"}) {
    const auto plan = Plan(std::string(name) + ":1:EIO:once");
    ASSERT_EQ(plan.size(), 1u);
    EXPECT_EQ(FaultOperationName(plan[0].operation), name);
  }
}

TEST(FaultPlanTest, MalformedItemsAreRefusedByName) {
  for (const char* text :
       {"KVM_RUN", "KVM_RUN:1:EIO", "KVM_RUN:1:EIO:sometimes", "KVM_RUN:0:EIO:once",
        "KVM_RUN:x:EIO:once", "KVM_RUN:1:EWHAT:once", "KVM_NOTHING:1:EIO:once", "0xzz:1:EIO:once",
        "KVM_RUN:1:EIO:once,", "KVM_RUN:1:EIO:once:more"}) {
    const auto plan = ParseFaultPlan(text, kLinkNumber);
    ASSERT_FALSE(plan.ok()) << text;
    EXPECT_EQ(ReasonOf(plan.status()), "FAULT_PLAN_INVALID") << text;
  }
}

TEST(FaultPlanTest, EmptyTextIsAPlanWithoutFaults) { EXPECT_TRUE(Plan("").empty()); }

}  // namespace
}  // namespace rehome
