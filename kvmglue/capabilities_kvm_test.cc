// SPDX-License-Identifier: Apache-2.0
//
// What the probes say of the real kernel, held against what the typed layer can do on it.
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <set>

#include "kvmglue/capabilities.h"
#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/vm.h"
#include "kvmglue/why_no_kvm.h"

namespace rehome {
namespace {

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator directory("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(directory), end(directory)));
}

class CapabilitiesOnKvm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
    host_ = ProbeHost(*kernel_, LinkAbi{});
  }

  bool CanCreate(VmType type) { return Vm::Create(*kernel_, type, LinkAbi{}).ok(); }

  std::unique_ptr<KvmSyscalls> kernel_;
  HostCapabilities host_;
};

TEST_F(CapabilitiesOnKvm, DescribesTheHost) {
  EXPECT_EQ(host_.backend, "kvm");
  EXPECT_FALSE(host_.kernel_release.empty());
  EXPECT_FALSE(host_.machine.empty());
  for (const Capability& capability : host_.capabilities) {
    std::cout << (capability.available ? "yes " : "no  ") << capability.name << "  "
              << capability.reason << "  " << capability.detail << "\n";
  }
}

TEST_F(CapabilitiesOnKvm, EachNameOnceWithADetailAndAReasonExactlyWhereMissing) {
  std::set<std::string> names;
  for (const Capability& capability : host_.capabilities) {
    EXPECT_TRUE(names.insert(capability.name).second) << capability.name;
    EXPECT_FALSE(capability.detail.empty()) << capability.name;
    EXPECT_EQ(capability.available, capability.reason.empty()) << capability.name;
    EXPECT_NE(capability.reason, "UNSPECIFIED") << capability.name;
  }
}

TEST_F(CapabilitiesOnKvm, DefaultVmsAndKvmAreThere) {
  EXPECT_TRUE(host_.Has("kvm"));
  EXPECT_TRUE(host_.HasVmType(VmType::kDefault));
}

TEST_F(CapabilitiesOnKvm, VmTypesAreThoseThatCanBeCreated) {
  for (const VmType type :
       {VmType::kDefault, VmType::kSwProtected, VmType::kSev, VmType::kSevEs, VmType::kTdx}) {
    EXPECT_EQ(host_.HasVmType(type), CanCreate(type)) << VmTypeName(type);
    EXPECT_FALSE(host_.CanMove(type) && !host_.HasVmType(type)) << VmTypeName(type);
  }
}

TEST_F(CapabilitiesOnKvm, SnpIsRefusedWhateverTheKernelCan) {
  EXPECT_FALSE(host_.HasVmType(VmType::kSnp));
  EXPECT_FALSE(host_.CanMove(VmType::kSnp));
  EXPECT_EQ(host_.Find("vm_type_snp")->reason, "SNP_REFUSED");
}

// KVM_CHECK_EXTENSION says that every x86 host can MOVE. A default VM never can.
TEST_F(CapabilitiesOnKvm, DefaultVmsAreNotMovable) {
  EXPECT_FALSE(host_.CanMove(VmType::kDefault));
  EXPECT_EQ(host_.Find("move_enc_context_default"), nullptr);
}

TEST_F(CapabilitiesOnKvm, LinkIsThereOrUnsupportedByTheIoctlItself) {
  const Capability* link = host_.Find("guest_memfd_link");
  ASSERT_NE(link, nullptr);
  EXPECT_EQ(host_.CanLink(), link->available);
  if (!link->available) {
    EXPECT_EQ(link->reason, "LINK_UNSUPPORTED");
    EXPECT_NE(link->detail.find("ENOTTY"), std::string::npos) << link->detail;
    EXPECT_NE(link->detail.find("0xc040aed6"), std::string::npos) << link->detail;
  }
}

// A configured number that belongs to another ioctl of the same shape answers EINVAL, too.
TEST_F(CapabilitiesOnKvm, AnotherIoctlIsNotTakenForLink) {
  constexpr uint32_t kCreateGuestMemfd = 0xd4;
  const HostCapabilities host = ProbeHost(*kernel_, LinkAbi{.ioctl_number = kCreateGuestMemfd});
  EXPECT_FALSE(host.CanLink()) << host.Find("guest_memfd_link")->detail;
}

TEST_F(CapabilitiesOnKvm, ProbingLeavesNothingOpen) {
  const size_t before = OpenDescriptors();
  (void)ProbeHost(*kernel_, LinkAbi{});
  EXPECT_EQ(OpenDescriptors(), before);
}

}  // namespace
}  // namespace rehome
