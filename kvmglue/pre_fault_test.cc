// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/pre_fault.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

constexpr uint64_t kGpa = 1 << 20;
constexpr uint64_t kPage = 4096;
constexpr auto kEver = steady_clock::time_point::max();

class PreFaultTest : public ::testing::Test {
 protected:
  // Answers each call with `bytes` of progress, or with `error` at the call of that number.
  void Script(uint64_t bytes, size_t failing_call = SIZE_MAX, int error = 0) {
    kernel_.On(KVM_PRE_FAULT_MEMORY, [=, this](BorrowedFd, void* argument) -> SysResult {
      auto* const range = static_cast<kvm_pre_fault_memory*>(argument);
      if (asked_.size() == failing_call) {
        asked_.push_back({0, 0});
        return {.value = -1, .error = error};
      }
      asked_.push_back({range->gpa, range->size});
      const uint64_t done = std::min<uint64_t>(bytes, range->size);
      range->gpa += done;
      range->size -= done;
      return {.value = 0, .error = 0};
    });
  }
  absl::StatusOr<uint64_t> Run(uint64_t bytes, steady_clock::time_point end = kEver) {
    return PreFault(kernel_, BorrowedFd(), kGpa, bytes, end);
  }

  struct Asked {
    uint64_t gpa, bytes;
  };
  rehome::testing::ScriptedKvm kernel_;
  std::vector<Asked> asked_;
};

TEST_F(PreFaultTest, GoesOnFromWhereTheKernelSaysItIs) {
  Script(3 * kPage);
  const auto done = Run(8 * kPage);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(*done, 8 * kPage);
  ASSERT_EQ(asked_.size(), 3u);
  EXPECT_EQ(asked_[1].gpa, kGpa + 3 * kPage);
  EXPECT_EQ(asked_[2].bytes, 2 * kPage);
}

TEST_F(PreFaultTest, AsksForNoMoreAtOnceThanItsTimeIsLookedAtFor) {
  Script(UINT64_MAX);
  const auto done = Run(2 * kPreFaultStrideBytes + kPage);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(*done, 2 * kPreFaultStrideBytes + kPage);
  ASSERT_EQ(asked_.size(), 3u);
  EXPECT_EQ(asked_[0].bytes, kPreFaultStrideBytes);
  EXPECT_EQ(asked_[2].bytes, kPage);
}

TEST_F(PreFaultTest, StopsWhenItsTimeIsOver) {
  Script(kPage);
  const auto done = Run(8 * kPage, steady_clock::time_point::min());
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(*done, 0u);
  EXPECT_TRUE(asked_.empty());
}

TEST_F(PreFaultTest, ASignalIsNoFailure) {
  Script(kPage, 1, EINTR);
  const auto done = Run(2 * kPage);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(*done, 2 * kPage);
}

TEST_F(PreFaultTest, AKernelWithoutItSaysSoAndNothingElseDoes) {
  for (const int error : {EOPNOTSUPP, EINVAL, ENOTTY}) {
    kernel_.Fail(KVM_PRE_FAULT_MEMORY, error);
    const absl::Status status = Run(kPage).status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_EQ(ReasonOf(status), "PRE_FAULT_UNSUPPORTED");
  }
  kernel_.Fail(KVM_PRE_FAULT_MEMORY, EFAULT);
  const absl::Status status = Run(kPage).status();
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(absl::IsUnimplemented(status)) << status;
}

}  // namespace
}  // namespace rehome
