// SPDX-License-Identifier: Apache-2.0
//
// The copying vCPU on real KVM. What it copies is ordinary memory here, because this host's KVM has
// no SW_PROTECTED VMs; the instructions, tables and memslots are the same.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/why_no_kvm.h"
#include "vmm/reference/private_memory.h"

namespace rehome {
namespace {

constexpr size_t kBytes = 16 * 4096;
constexpr uint32_t kRamSlot = 0, kFreeSlot = 1;

class PrivateCopyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
    auto vm = Vm::Create(*kernel_, VmType::kDefault, LinkAbi{});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->CreateIrqchip().ok());
    void* mapping =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(mapping, MAP_FAILED);
    ram_ = {static_cast<std::byte*>(mapping), kBytes};
    ASSERT_TRUE(SetRam().ok());
    auto vcpu = vm_->CreateVcpu(0);
    ASSERT_TRUE(vcpu.ok()) << vcpu.status();
    vcpu_ = *std::move(vcpu);
    const auto cpuid = DefaultCpuid(*kernel_, 0, 1);
    ASSERT_TRUE(cpuid.ok());
    ASSERT_TRUE(vcpu_->SetCpuid(*cpuid).ok());
  }
  void TearDown() override {
    if (!ram_.empty()) munmap(ram_.data(), ram_.size());
  }
  absl::Status SetRam() {
    Memslot slot;
    slot.slot = kRamSlot;
    slot.size_bytes = kBytes;
    slot.hva = reinterpret_cast<uint64_t>(ram_.data());
    return vm_->SetMemslot(slot, BorrowedFd());
  }

  std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> vcpu_;
  std::span<std::byte> ram_;
};

std::vector<std::byte> Pattern() {
  std::vector<std::byte> bytes(kBytes);
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 4096);
  return bytes;
}

TEST_F(PrivateCopyTest, CopiesInWhatItWasGiven) {
  const std::vector<std::byte> image = Pattern();
  const absl::Status status = CopyIntoPrivate(*vm_, *vcpu_, kFreeSlot, image);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(std::equal(image.begin(), image.end(), ram_.begin()));
}

TEST_F(PrivateCopyTest, CopiesOutWhatIsThere) {
  const std::vector<std::byte> image = Pattern();
  std::copy(image.begin(), image.end(), ram_.begin());
  std::vector<std::byte> out(kBytes);
  const absl::Status status = CopyOutOfPrivate(*vm_, *vcpu_, kFreeSlot, out);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(out, image);
}

TEST_F(PrivateCopyTest, LeavesItsSlotFree) {
  const std::vector<std::byte> image = Pattern();
  for (int round = 0; round < 2; ++round) {
    const absl::Status status = CopyIntoPrivate(*vm_, *vcpu_, kFreeSlot, image);
    ASSERT_TRUE(status.ok()) << round << ": " << status;
  }
}

TEST_F(PrivateCopyTest, SaysWhatTheVcpuDidInstead) {
  ASSERT_TRUE(vm_->DeleteMemslot(kRamSlot, 0).ok());
  const absl::Status status = CopyIntoPrivate(*vm_, *vcpu_, kFreeSlot, Pattern());
  EXPECT_EQ(ReasonOf(status), "PRIVATE_COPY_FAILED") << status;
}

}  // namespace
}  // namespace rehome
