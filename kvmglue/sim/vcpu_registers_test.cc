// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/vcpu_registers.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

class VcpuRegistersTest : public ::testing::Test {
 protected:
  long Call(unsigned long request, void* argument) {
    return kernel_.Call(vcpu_.borrow(), request, argument);
  }
  // Bytes that no other test sets, written and read back.
  template <typename T>
  void ExpectRoundTrip(unsigned long set, unsigned long get, T value) {
    EXPECT_EQ(Call(set, &value), 0);
    T back;
    std::memset(&back, 0xee, sizeof(back));
    EXPECT_EQ(Call(get, &back), 0);
    EXPECT_EQ(std::memcmp(&value, &back, sizeof(T)), 0);
  }

  TestKernel kernel_;
  UniqueFd vm_ = kernel_.CreateVm(VmType::kDefault);
  UniqueFd vcpu_ = kernel_.CreateVcpu(vm_.borrow());
};

TEST_F(VcpuRegistersTest, FreshVcpuIsAtTheResetVector) {
  kvm_regs regs;
  kvm_sregs sregs;
  ASSERT_EQ(Call(KVM_GET_REGS, &regs), 0);
  ASSERT_EQ(Call(KVM_GET_SREGS, &sregs), 0);
  EXPECT_EQ(sregs.cs.base + regs.rip, 0xfffffff0u);
  EXPECT_EQ(regs.rflags, 2u);
  EXPECT_EQ(sregs.cr0, 0x60000010u);
  EXPECT_EQ(sregs.apic_base, 0xfee00900u);
}

TEST_F(VcpuRegistersTest, EverythingIsReadBackAsWritten) {
  kvm_regs regs = {};
  regs.r15 = 0x1234;
  ExpectRoundTrip(KVM_SET_REGS, KVM_GET_REGS, regs);
  kvm_sregs sregs = {};
  sregs.cr3 = 0x5000;
  sregs.efer = 0x500;
  sregs.interrupt_bitmap[1] = 2;
  ExpectRoundTrip(KVM_SET_SREGS, KVM_GET_SREGS, sregs);
  kvm_sregs2 sregs2 = {};
  sregs2.cr4 = 0x20;
  sregs2.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  sregs2.pdptrs[3] = 0x9001;
  ExpectRoundTrip(KVM_SET_SREGS2, KVM_GET_SREGS2, sregs2);
  kvm_xsave xsave = {};
  xsave.region[1023] = 77;
  ExpectRoundTrip(KVM_SET_XSAVE, KVM_GET_XSAVE, xsave);
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = 7;
  ExpectRoundTrip(KVM_SET_XCRS, KVM_GET_XCRS, xcrs);
  kvm_debugregs debugregs = {};
  debugregs.db[2] = 0x1000;
  debugregs.dr7 = 0x402;
  ExpectRoundTrip(KVM_SET_DEBUGREGS, KVM_GET_DEBUGREGS, debugregs);
}

TEST_F(VcpuRegistersTest, Xsave2IsXsaveAsLongAsTheCapabilitySays) {
  EXPECT_EQ(kernel_.Call(vm_.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2),
            long{sizeof(kvm_xsave)});
  kvm_xsave xsave = {};
  xsave.region[5] = 55;
  ASSERT_EQ(Call(KVM_SET_XSAVE, &xsave), 0);
  kvm_xsave back = {};
  ASSERT_EQ(Call(KVM_GET_XSAVE2, &back), 0);
  EXPECT_EQ(back.region[5], 55u);
}

TEST_F(VcpuRegistersTest, ValuesThatKvmRefusesAreEinval) {
  kvm_sregs2 sregs2 = {};
  sregs2.flags = 2;
  EXPECT_EQ(Call(KVM_SET_SREGS2, &sregs2), -EINVAL);
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  EXPECT_EQ(Call(KVM_SET_XCRS, &xcrs), -EINVAL) << "x87 off";
  xcrs.nr_xcrs = KVM_MAX_XCRS + 1;
  EXPECT_EQ(Call(KVM_SET_XCRS, &xcrs), -EINVAL);
  kvm_debugregs debugregs = {};
  debugregs.flags = 1;
  EXPECT_EQ(Call(KVM_SET_DEBUGREGS, &debugregs), -EINVAL);
  debugregs.flags = 0;
  debugregs.dr7 = uint64_t{1} << 32;
  EXPECT_EQ(Call(KVM_SET_DEBUGREGS, &debugregs), -EINVAL);
}

constexpr unsigned long kRequests[] = {
    KVM_GET_REGS,   KVM_SET_REGS,      KVM_GET_SREGS,     KVM_SET_SREGS, KVM_GET_SREGS2,
    KVM_SET_SREGS2, KVM_GET_XSAVE,     KVM_GET_XSAVE2,    KVM_SET_XSAVE, KVM_GET_XCRS,
    KVM_SET_XCRS,   KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
};

TEST_F(VcpuRegistersTest, NoArgumentIsEfault) {
  for (const unsigned long request : kRequests) EXPECT_EQ(Call(request, nullptr), -EFAULT);
}

TEST_F(VcpuRegistersTest, ProtectedVcpuKeepsAllOfThemToItself) {
  vm_ = kernel_.CreateVm(VmType::kTdx);
  vcpu_ = kernel_.CreateVcpu(vm_.borrow());
  alignas(8) uint8_t buffer[sizeof(kvm_xsave)] = {};
  for (const unsigned long request : kRequests) EXPECT_EQ(Call(request, buffer), -EINVAL);
}

TEST_F(VcpuRegistersTest, VcpusAreIndependent) {
  const UniqueFd other = kernel_.CreateVcpu(vm_.borrow(), 1);
  kvm_regs regs = {};
  regs.rbx = 99;
  ASSERT_EQ(Call(KVM_SET_REGS, &regs), 0);
  ASSERT_EQ(kernel_.Call(other.borrow(), KVM_GET_REGS, &regs), 0);
  EXPECT_EQ(regs.rbx, 0u);
}

}  // namespace
}  // namespace rehome::sim
