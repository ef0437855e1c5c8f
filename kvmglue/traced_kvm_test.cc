// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/traced_kvm.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/scripted_kvm.h"

namespace rehome {
namespace {

class TracedKvmTest : public ::testing::Test {
 protected:
  TracedKvmTest() {
    kernel_.ReturnFd(KVM_CREATE_VM);
    kernel_.ReturnFd(KVM_CREATE_VCPU);
  }
  ~TracedKvmTest() override { rehome_trace_free(trace_); }

  void StartTrace() {
    ASSERT_EQ(rehome_trace_open(trace_, area_.borrow().raw()), 0);
    rehome_trace_start(trace_);
  }
  // An answer that takes longer than the threshold, and fails with `error` if that is not 0.
  static testing::ScriptedKvm::Answer Slow(int error = 0) {
    return [error](BorrowedFd, void*) {
      timespec begin, now;
      clock_gettime(CLOCK_MONOTONIC, &begin);
      do {
        clock_gettime(CLOCK_MONOTONIC, &now);
      } while ((now.tv_sec - begin.tv_sec) * 1'000'000'000 + now.tv_nsec - begin.tv_nsec <
               2 * REHOME_TRACE_THRESHOLD_NS);
      return error == 0 ? SysResult{} : SysResult{-1, error};
    };
  }
  UniqueFd Make(BorrowedFd from, unsigned long request, uintptr_t argument) {
    return UniqueFd(
        static_cast<int>(traced_.Ioctl(from, request, reinterpret_cast<void*>(argument)).value));
  }
  std::vector<rehome_trace_call> Calls() const {
    rehome_trace_header header;
    EXPECT_EQ(pread(area_.borrow().raw(), &header, sizeof(header), 0),
              static_cast<ssize_t>(sizeof(header)));
    std::vector<rehome_trace_call> calls(header.claimed);
    const size_t bytes = calls.size() * sizeof(rehome_trace_call);
    EXPECT_EQ(pread(area_.borrow().raw(), calls.data(), bytes, sizeof(header)),
              static_cast<ssize_t>(bytes));
    return calls;
  }

  testing::ScriptedKvm kernel_;
  rehome_trace* const trace_ = rehome_trace_new();
  const UniqueFd area_{rehome_trace_create_area()};
  TracedKvm traced_{kernel_, LinkAbi{.ioctl_number = 0xd7}, trace_};
};

TEST_F(TracedKvmTest, NotesNameAndVcpu) {
  const UniqueFd vm = Make(BorrowedFd(), KVM_CREATE_VM, 0);
  const UniqueFd first = Make(vm.borrow(), KVM_CREATE_VCPU, 0);
  const UniqueFd fifth = Make(vm.borrow(), KVM_CREATE_VCPU, 5);
  for (const unsigned long request :
       {static_cast<unsigned long>(KVM_GET_CLOCK), static_cast<unsigned long>(KVM_SET_MSRS),
        LinkGuestMemfdRequest(0xd7), 0xdeadul}) {
    kernel_.On(request, Slow());
  }
  StartTrace();
  traced_.Ioctl(vm.borrow(), KVM_GET_CLOCK, nullptr);
  traced_.Ioctl(first.borrow(), KVM_SET_MSRS, nullptr);
  traced_.Ioctl(fifth.borrow(), KVM_SET_MSRS, nullptr);
  traced_.Ioctl(vm.borrow(), LinkGuestMemfdRequest(0xd7), nullptr);
  traced_.Ioctl(vm.borrow(), 0xdead, nullptr);
  const std::vector<rehome_trace_call> calls = Calls();
  ASSERT_EQ(calls.size(), 5u);
  const std::vector<std::pair<uint32_t, uint32_t>> expected = {
      {REHOME_TRACE_KVM_GET_CLOCK, REHOME_TRACE_NO_VCPU},
      {REHOME_TRACE_KVM_SET_MSRS, 0},
      {REHOME_TRACE_KVM_SET_MSRS, 5},
      {REHOME_TRACE_LINK_GUEST_MEMFD, REHOME_TRACE_NO_VCPU},
      {REHOME_TRACE_OTHER, REHOME_TRACE_NO_VCPU}};
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_EQ(calls[i].operation, expected[i].first) << i;
    EXPECT_EQ(calls[i].vcpu, expected[i].second) << i;
    EXPECT_GE(calls[i].end_ns - calls[i].begin_ns, REHOME_TRACE_THRESHOLD_NS) << i;
  }
}

TEST_F(TracedKvmTest, PassesEverythingOn) {
  kernel_.On(KVM_RUN, Slow(EINTR));
  kernel_.Fail(KVM_GET_REGS, EIO);
  EXPECT_EQ(traced_.Ioctl(BorrowedFd(), KVM_GET_REGS, nullptr).error, EIO);
  StartTrace();
  EXPECT_EQ(traced_.Ioctl(BorrowedFd(), KVM_GET_REGS, nullptr).error, EIO);
  EXPECT_EQ(traced_.Ioctl(BorrowedFd(), KVM_RUN, nullptr).error, EINTR);
  EXPECT_EQ(kernel_.calls, (std::vector<unsigned long>{KVM_GET_REGS, KVM_GET_REGS, KVM_RUN}));
  EXPECT_STREQ(traced_.Name(), kernel_.Name());
}

// A descriptor of a failed call, or none, is nobody's vCPU.
TEST_F(TracedKvmTest, LearnsNothingFromAFailure) {
  kernel_.Fail(KVM_CREATE_VCPU, EEXIST);
  kernel_.On(KVM_GET_MSRS, Slow());
  traced_.Ioctl(BorrowedFd(), KVM_CREATE_VCPU, nullptr);
  StartTrace();
  traced_.Ioctl(BorrowedFd(), KVM_GET_MSRS, nullptr);
  ASSERT_EQ(Calls().size(), 1u);
  EXPECT_EQ(Calls()[0].vcpu, REHOME_TRACE_NO_VCPU);
}

}  // namespace
}  // namespace rehome
