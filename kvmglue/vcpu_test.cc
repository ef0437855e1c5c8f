// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vcpu.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

using testing::ScriptedKvm;

class VcpuTest : public ::testing::Test {
 protected:
  VcpuTest() {
    vm_ = Vm::Create(kernel_, VmType::kDefault, LinkAbi{}).value();
    vcpu_ = vm_->CreateVcpu(0).value();
  }

  kvm_run& run() { return *kernel_.run; }
  void ExitWith(uint32_t exit_reason, SysResult result = {}) {
    kernel_.On(KVM_RUN, [this, exit_reason, result](BorrowedFd, void*) {
      run().exit_reason = exit_reason;
      return result;
    });
  }

  ScriptedKvm kernel_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> vcpu_;
};

TEST_F(VcpuTest, EveryExitHasItsName) {
  const std::pair<uint32_t, VcpuExit> exits[] = {
      {KVM_EXIT_IO, VcpuExit::kIo},
      {KVM_EXIT_MMIO, VcpuExit::kMmio},
      {KVM_EXIT_HLT, VcpuExit::kHalt},
      {KVM_EXIT_SHUTDOWN, VcpuExit::kShutdown},
      {KVM_EXIT_SYSTEM_EVENT, VcpuExit::kSystemEvent},
      {KVM_EXIT_INTR, VcpuExit::kInterrupted},
      {KVM_EXIT_INTERNAL_ERROR, VcpuExit::kInternalError},
      {KVM_EXIT_FAIL_ENTRY, VcpuExit::kInternalError},
      {KVM_EXIT_HYPERCALL, VcpuExit::kUnknown},
      {12345, VcpuExit::kUnknown},
  };
  for (const auto& [reason, exit] : exits) {
    ExitWith(reason);
    EXPECT_EQ(vcpu_->Run().value(), exit) << reason;
    EXPECT_NE(vcpu_->DescribeExit().find(std::to_string(reason)), std::string::npos);
  }
}

TEST_F(VcpuTest, InterruptionsAreNoErrors) {
  for (const int error : {EINTR, EAGAIN}) {
    kernel_.Fail(KVM_RUN, error);
    EXPECT_EQ(vcpu_->Run().value(), VcpuExit::kInterrupted);
  }
}

TEST_F(VcpuTest, AMemoryFaultIsAnExitWithErrno) {
  const MemoryFaultExit fault = {
      .flags = KVM_MEMORY_EXIT_FLAG_PRIVATE, .gpa = 0x5000, .size = 0x1000};
  std::memcpy(run().padding, &fault, sizeof(fault));
  for (const int error : {EFAULT, EHWPOISON}) {
    ExitWith(KVM_EXIT_MEMORY_FAULT, {.value = -1, .error = error});
    ASSERT_EQ(vcpu_->Run().value(), VcpuExit::kMemoryFault);
    EXPECT_EQ(vcpu_->fault().gpa, 0x5000u);
    EXPECT_EQ(vcpu_->fault().size, 0x1000u);
    EXPECT_TRUE(vcpu_->fault().is_private);
  }
  ExitWith(KVM_EXIT_UNKNOWN, {.value = -1, .error = EFAULT});
  EXPECT_EQ(ReasonOf(vcpu_->Run().status()), "KVM_RUN_FAILED");
}

TEST_F(VcpuTest, EioMeansDead) {
  kernel_.Fail(KVM_RUN, EIO);
  EXPECT_EQ(ReasonOf(vcpu_->Run().status()), "VM_DEAD");
}

TEST_F(VcpuTest, PortIoPointsIntoTheSharedPage) {
  run().io.direction = KVM_EXIT_IO_OUT;
  run().io.size = 2;
  run().io.port = 0x3f8;
  run().io.count = 3;
  run().io.data_offset = 4096;
  const PortIo io = vcpu_->io();
  EXPECT_TRUE(io.is_out);
  EXPECT_EQ(io.port, 0x3f8);
  EXPECT_EQ(io.width, 2);
  EXPECT_EQ(io.count, 3u);
  EXPECT_EQ(io.data.data(), reinterpret_cast<uint8_t*>(&run()) + 4096);
  EXPECT_EQ(io.data.size(), 6u);
}

// The page is shared with whoever else has the vCPU's fd.
TEST_F(VcpuTest, PortIoAndMmioNeverPointOutside) {
  run().io.size = 4;
  run().io.count = 1;
  for (const uint64_t offset : {uint64_t{12285}, uint64_t{1} << 40, ~uint64_t{0}}) {
    run().io.data_offset = offset;
    EXPECT_TRUE(vcpu_->io().data.empty()) << offset;
  }
  run().io.data_offset = 4096;
  run().io.count = ~0u;
  EXPECT_TRUE(vcpu_->io().data.empty());
  run().mmio.len = 4000;
  EXPECT_EQ(vcpu_->mmio().data.size(), 8u);
}

TEST_F(VcpuTest, MmioShowsTheAccess) {
  run().mmio.phys_addr = 0xfee00000;
  run().mmio.len = 4;
  run().mmio.is_write = 1;
  const MmioAccess access = vcpu_->mmio();
  EXPECT_EQ(access.gpa, 0xfee00000u);
  EXPECT_TRUE(access.is_write);
  EXPECT_EQ(access.data.size(), 4u);
}

TEST_F(VcpuTest, AnInstructionWithAnotherAccessIsNotComplete) {
  ExitWith(KVM_EXIT_IO);
  const absl::Status status = vcpu_->CompletePendingIo();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "IO_PENDING");
  EXPECT_EQ(run().immediate_exit, 1);
  kernel_.Fail(KVM_RUN, EINTR);
  EXPECT_TRUE(vcpu_->CompletePendingIo().ok());
}

TEST_F(VcpuTest, MalformedCpuidNeverReachesTheKernel) {
  std::vector<std::byte> cpuid(8 + 40 * 2);
  const uint32_t two = 2;
  std::memcpy(cpuid.data(), &two, sizeof(two));
  EXPECT_TRUE(vcpu_->SetCpuid(cpuid).ok());
  EXPECT_EQ(kernel_.Count(KVM_SET_CPUID2), 1u);
  const auto refused = [&](size_t size, uint32_t entries) {
    std::vector<std::byte> bytes(size);
    if (size >= sizeof(entries)) std::memcpy(bytes.data(), &entries, sizeof(entries));
    return ReasonOf(vcpu_->SetCpuid(bytes));
  };
  EXPECT_EQ(refused(0, 0), "CPUID_INVALID");
  EXPECT_EQ(refused(7, 0), "CPUID_INVALID");
  EXPECT_EQ(refused(8 + 40, 2), "CPUID_INVALID");
  EXPECT_EQ(refused(8 + 40 * 2 + 1, 2), "CPUID_INVALID");
  EXPECT_EQ(refused(8 + 40 * 257, 257), "CPUID_INVALID");
  EXPECT_EQ(refused(8, ~0u), "CPUID_INVALID");
  EXPECT_EQ(kernel_.Count(KVM_SET_CPUID2), 1u);
  kernel_.Fail(KVM_SET_CPUID2, EINVAL);
  EXPECT_EQ(ReasonOf(vcpu_->SetCpuid(cpuid)), "CPUID_REFUSED");
}

// ---- DefaultCpuid

std::vector<kvm_cpuid_entry2> EntriesOf(const std::vector<std::byte>& bytes) {
  uint32_t count = 0;
  std::memcpy(&count, bytes.data(), sizeof(count));
  EXPECT_EQ(bytes.size(), 8 + count * sizeof(kvm_cpuid_entry2));
  std::vector<kvm_cpuid_entry2> entries(count);
  std::memcpy(entries.data(), bytes.data() + 8, count * sizeof(kvm_cpuid_entry2));
  return entries;
}

TEST(DefaultCpuid, TellsVcpusApartAndHidesNestedVirtualization) {
  ScriptedKvm kernel;
  kernel.On(KVM_GET_SUPPORTED_CPUID, [](BorrowedFd, void* argument) {
    auto* cpuid = static_cast<kvm_cpuid2*>(argument);
    const kvm_cpuid_entry2 all[] = {
        {.function = 1, .ebx = 0xff, .ecx = ~0u},
        {.function = 0xb, .index = 0},
        {.function = 0xb, .index = 1},
        {.function = 0x80000001, .ecx = ~0u},
        {.function = 0x80000008, .ecx = 0xffff},
        {.function = 0x8000001e, .ebx = 0xffff},
    };
    cpuid->nent = std::size(all);
    std::memcpy(cpuid->entries, all, sizeof(all));
    return SysResult{};
  });
  const absl::StatusOr<std::vector<std::byte>> bytes = DefaultCpuid(kernel, 3, 5);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const std::vector<kvm_cpuid_entry2> entries = EntriesOf(*bytes);
  ASSERT_EQ(entries.size(), 6u);
  EXPECT_EQ(entries[0].ebx, 0x030500ffu);       // APIC ID, count
  EXPECT_EQ(entries[0].ecx, ~0u & ~(1u << 5));  // no VMX; hypervisor bit
  EXPECT_EQ(entries[1].edx, 3u);                // x2APIC ID
  EXPECT_EQ(entries[2].eax, 3u);                // five cores take three bits
  EXPECT_EQ(entries[2].ebx, 5u);
  EXPECT_EQ(entries[3].ecx, ~0u & ~(1u << 2));  // no SVM
  EXPECT_EQ(entries[4].ecx & 0xff, 4u);         // count - 1
  EXPECT_EQ(entries[5].eax, 3u);
}

TEST(DefaultCpuid, RefusesVcpusThatCannotBe) {
  ScriptedKvm kernel;
  for (const auto& [index, count] : {std::pair{0u, 0u}, {5u, 5u}, {0u, 256u}, {~0u, 4u}}) {
    EXPECT_EQ(ReasonOf(DefaultCpuid(kernel, index, count).status()), "BAD_VCPU_INDEX");
  }
  kernel.FailOpen(ENOENT);
  EXPECT_EQ(ReasonOf(DefaultCpuid(kernel, 0, 1).status()), "KVM_UNAVAILABLE");
}

}  // namespace
}  // namespace rehome
