// SPDX-License-Identifier: Apache-2.0
//
// What the probes make of kernels that this machine does not run.
#include "kvmglue/capabilities.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <set>

#include "kvmglue/kvm_abi.h"
#include "kvmglue/scripted_kvm.h"

namespace rehome {
namespace {

using testing::ScriptedKvm;

constexpr unsigned long kLink = LinkGuestMemfdRequest(0xd6);

HostCapabilities Probe(ScriptedKvm& kernel) { return ProbeHost(kernel, LinkAbi{}); }

const Capability& Get(const HostCapabilities& host, std::string_view name) {
  const Capability* found = host.Find(name);
  EXPECT_NE(found, nullptr) << name;
  static const Capability kNone;
  return found == nullptr ? kNone : *found;
}

// A kernel that has LINK as the RFC describes it.
void HaveLink(ScriptedKvm& kernel) {
  kernel.On(kLink, [](BorrowedFd, void* argument) {
    const auto* link = static_cast<const LinkGuestMemfdArgs*>(argument);
    if (link->flags != 0) return SysResult{.value = -1, .error = EINVAL};
    return CaptureErrno(dup(static_cast<int>(link->fd)));
  });
}

void MoveAnswers(ScriptedKvm& kernel, int bad_fd_error, int real_move_error) {
  kernel.On(KVM_ENABLE_CAP, [=](BorrowedFd, void* argument) {
    const auto* enable = static_cast<const kvm_enable_cap*>(argument);
    EXPECT_EQ(enable->cap, unsigned{KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM});
    const int error = enable->args[0] == 0xffffffff ? bad_fd_error : real_move_error;
    return SysResult{.value = error == 0 ? 0 : -1, .error = error};
  });
}

TEST(Capabilities, WithoutKvmEverythingIsMissingForThatReason) {
  ScriptedKvm with;
  const size_t names = Probe(with).capabilities.size();
  ScriptedKvm kernel;
  kernel.FailOpen(ENOENT);
  const HostCapabilities host = Probe(kernel);
  EXPECT_EQ(host.capabilities.size(), names);
  for (const Capability& capability : host.capabilities) {
    EXPECT_FALSE(capability.available) << capability.name;
    EXPECT_EQ(capability.reason, "KVM_UNAVAILABLE") << capability.name;
    EXPECT_NE(capability.detail.find("ENOENT"), std::string::npos) << capability.detail;
  }
}

TEST(Capabilities, AnotherApiVersionIsNoKvm) {
  ScriptedKvm kernel;
  kernel.On(KVM_GET_API_VERSION, [](BorrowedFd, void*) { return SysResult{.value = 11}; });
  const HostCapabilities host = Probe(kernel);
  EXPECT_EQ(Get(host, "kvm").reason, "KVM_UNAVAILABLE");
  EXPECT_FALSE(host.HasVmType(VmType::kDefault));
}

TEST(Capabilities, NamesAreStable) {
  ScriptedKvm kernel;
  std::set<std::string> names;
  for (const Capability& capability : Probe(kernel).capabilities) names.insert(capability.name);
  EXPECT_EQ(names, (std::set<std::string>{"kvm",
                                          "vm_type_default",
                                          "vm_type_sw_protected",
                                          "vm_type_sev",
                                          "vm_type_sev_es",
                                          "vm_type_snp",
                                          "vm_type_tdx",
                                          "guest_memfd",
                                          "guest_memfd_mmap",
                                          "guest_memfd_link",
                                          "move_enc_context_sw_protected",
                                          "move_enc_context_sev",
                                          "move_enc_context_sev_es",
                                          "move_enc_context_tdx",
                                          "memory_attributes",
                                          "pre_fault_memory",
                                          "xsave2",
                                          "sregs2",
                                          "tsc_offset",
                                          "sync_regs",
                                          "irqfd"}));
}

TEST(Capabilities, SnpIsRefusedThoughTheKernelHasIt) {
  ScriptedKvm kernel;
  const HostCapabilities host = Probe(kernel);
  EXPECT_EQ(Get(host, "vm_type_snp").reason, "SNP_REFUSED");
  EXPECT_FALSE(host.HasVmType(VmType::kSnp));
}

TEST(Capabilities, LinkNeedsTheIoctlAndARealLink) {
  ScriptedKvm kernel;
  HaveLink(kernel);
  HostCapabilities host = Probe(kernel);
  EXPECT_TRUE(host.CanLink()) << Get(host, "guest_memfd_link").detail;

  kernel.Fail(kLink, ENOTTY);
  host = Probe(kernel);
  EXPECT_FALSE(host.CanLink());
  EXPECT_EQ(Get(host, "guest_memfd_link").reason, "LINK_UNSUPPORTED");

  kernel.Fail(kLink, EINVAL);  // an ioctl of that number, but another one
  EXPECT_EQ(Get(Probe(kernel), "guest_memfd_link").reason, "LINK_UNSUPPORTED");

  kernel.On(kLink, [](BorrowedFd, void* argument) {
    const auto* link = static_cast<const LinkGuestMemfdArgs*>(argument);
    if (link->flags != 0) return SysResult{.value = -1, .error = EINVAL};
    return CaptureErrno(memfd_create("another inode", MFD_CLOEXEC));
  });
  EXPECT_EQ(Get(Probe(kernel), "guest_memfd_link").reason, "LINK_UNSUPPORTED");
}

TEST(Capabilities, MoveIsThereWhereABadDescriptorIsWhatItMinds) {
  ScriptedKvm kernel;
  MoveAnswers(kernel, EBADF, 0);
  const HostCapabilities host = Probe(kernel);
  for (const VmType type : {VmType::kSwProtected, VmType::kSev, VmType::kSevEs, VmType::kTdx}) {
    EXPECT_TRUE(host.CanMove(type)) << VmTypeName(type);
  }
  EXPECT_FALSE(host.CanMove(VmType::kDefault));
  EXPECT_FALSE(host.CanMove(VmType::kSnp));
}

TEST(Capabilities, MoveIsNotThereWhereNothingIsLookedAt) {
  ScriptedKvm kernel;
  MoveAnswers(kernel, EINVAL, EINVAL);
  const HostCapabilities host = Probe(kernel);
  EXPECT_FALSE(host.CanMove(VmType::kSev));
  EXPECT_EQ(Get(host, "move_enc_context_sev").reason, "MOVE_UNSUPPORTED");
}

// Stock AMD kernels: the operation exists, but only for guests that SEV has been set up for.
TEST(Capabilities, MoveOfSwProtectedIsTriedForReal) {
  ScriptedKvm kernel;
  MoveAnswers(kernel, EBADF, EINVAL);
  const HostCapabilities host = Probe(kernel);
  EXPECT_TRUE(host.CanMove(VmType::kSev));
  EXPECT_FALSE(host.CanMove(VmType::kSwProtected));
  EXPECT_EQ(Get(host, "move_enc_context_sw_protected").reason, "MOVE_UNSUPPORTED");
}

TEST(Capabilities, WhatCannotBeCreatedCannotBeMoved) {
  ScriptedKvm kernel;
  MoveAnswers(kernel, EBADF, 0);
  kernel.On(KVM_CREATE_VM, [](BorrowedFd, void* type) {
    if (type != nullptr) return SysResult{.value = -1, .error = EINVAL};
    return CaptureErrno(memfd_create("vm", 0));
  });
  const HostCapabilities host = Probe(kernel);
  EXPECT_TRUE(host.HasVmType(VmType::kDefault));
  EXPECT_FALSE(host.HasVmType(VmType::kSev));
  EXPECT_FALSE(host.CanMove(VmType::kSev));
  EXPECT_EQ(Get(host, "move_enc_context_sev").reason, "VM_TYPE_UNSUPPORTED");
}

// Kernels up to 6.17 create guest_memfds for default VMs and do not bind them.
TEST(Capabilities, AGuestMemfdThatCannotBeBoundIsNone) {
  ScriptedKvm kernel;
  kernel.Fail(KVM_SET_USER_MEMORY_REGION2, EINVAL);
  const HostCapabilities host = Probe(kernel);
  EXPECT_EQ(Get(host, "guest_memfd").reason, "GUEST_MEMFD_UNSUPPORTED");
}

TEST(Capabilities, OneVmTypeIsEnoughAndTheDetailNamesEach) {
  ScriptedKvm kernel;
  kernel.On(KVM_SET_MEMORY_ATTRIBUTES, [calls = 0](BorrowedFd, void*) mutable {
    return ++calls == 2 ? SysResult{} : SysResult{.value = -1, .error = ENOTTY};
  });
  const Capability attributes = Get(Probe(kernel), "memory_attributes");
  EXPECT_TRUE(attributes.available);
  EXPECT_EQ(attributes.reason, "");
  EXPECT_NE(attributes.detail.find("default: KVM_SET_MEMORY_ATTRIBUTES(PRIVATE): ENOTTY"),
            std::string::npos)
      << attributes.detail;
  EXPECT_NE(attributes.detail.find("sw-protected: KVM_SET_MEMORY_ATTRIBUTES(PRIVATE) works"),
            std::string::npos)
      << attributes.detail;
}

TEST(Capabilities, ErrnoAppearsInTheDetail) {
  ScriptedKvm kernel;
  kernel.Fail(KVM_PRE_FAULT_MEMORY, EOPNOTSUPP);
  kernel.Fail(KVM_GET_SREGS2, ENOTTY);
  kernel.Fail(KVM_IRQFD, EINVAL);
  kernel.Fail(KVM_SET_DEVICE_ATTR, ENXIO);
  const HostCapabilities host = Probe(kernel);
  const std::pair<const char*, const char*> expected[] = {{"pre_fault_memory", "EOPNOTSUPP"},
                                                          {"sregs2", "ENOTTY"},
                                                          {"irqfd", "EINVAL"},
                                                          {"tsc_offset", "ENXIO"}};
  for (const auto& [name, error] : expected) {
    EXPECT_FALSE(host.Has(name));
    EXPECT_NE(Get(host, name).detail.find(error), std::string::npos) << Get(host, name).detail;
  }
}

TEST(Capabilities, UnknownNamesAreNotThere) {
  ScriptedKvm kernel;
  const HostCapabilities host = Probe(kernel);
  EXPECT_EQ(host.Find("teleport"), nullptr);
  EXPECT_FALSE(host.Has("teleport"));
  EXPECT_EQ(host.backend, "scripted");
}

}  // namespace
}  // namespace rehome
