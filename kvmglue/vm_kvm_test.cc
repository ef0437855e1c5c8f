// SPDX-License-Identifier: Apache-2.0
//
// VMs and their memory on real KVM: the kernel's rules that the rest of the project builds on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/why_no_kvm.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBytes = 16 * kPage;

class VmOnKvm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
    vm_ = NewVm();
    absl::StatusOr<UniqueFd> memory =
        vm_->CreateGuestMemfd(kBytes, kGuestMemfdMmap | kGuestMemfdInitShared);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    hva_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.borrow().raw(), 0);
    ASSERT_NE(hva_, MAP_FAILED);
  }
  void TearDown() override {
    if (hva_ != nullptr) munmap(hva_, kBytes);
  }

  std::unique_ptr<Vm> NewVm() {
    absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(*kernel_, VmType::kDefault, LinkAbi{});
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *std::move(vm);
  }

  Memslot Slot(uint64_t gpa = 0, uint64_t offset = 0, uint64_t size = kBytes) const {
    return {.gpa = gpa,
            .size_bytes = size,
            .flags = kMemslotGuestMemfd,
            .offset = offset,
            .hva = reinterpret_cast<uint64_t>(hva_) + offset};
  }

  std::string Reason(const Memslot& slot) {
    return ReasonOf(vm_->SetMemslot(slot, memory_.borrow()));
  }

  std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<Vm> vm_;
  UniqueFd memory_;
  void* hva_ = nullptr;
};

TEST_F(VmOnKvm, EveryDescriptorIsCloseOnExec) {
  const SysResult opened = kernel_->OpenKvm();
  ASSERT_TRUE(opened.ok());
  const UniqueFd kvm(static_cast<int>(opened.value));
  EXPECT_EQ(fcntl(kvm.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(vm_->fd().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(memory_.borrow().raw(), F_GETFD), FD_CLOEXEC);
  const absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = vm_->CreateVcpu(0);
  ASSERT_TRUE(vcpu.ok()) << vcpu.status();
  EXPECT_EQ(fcntl((*vcpu)->fd().raw(), F_GETFD), FD_CLOEXEC);
}

TEST_F(VmOnKvm, AnUnknownVmTypeIsUnsupported) {
  const absl::Status status = Vm::Create(*kernel_, static_cast<VmType>(77), LinkAbi{}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "VM_TYPE_UNSUPPORTED");
}

TEST_F(VmOnKvm, GuestMemfdSizesAndFlagsAreChecked) {
  EXPECT_EQ(ReasonOf(vm_->CreateGuestMemfd(0, 0).status()), "KVM_INVALID");
  EXPECT_EQ(ReasonOf(vm_->CreateGuestMemfd(kPage + 1, 0).status()), "KVM_INVALID");
  EXPECT_EQ(ReasonOf(vm_->CreateGuestMemfd(kPage, 1ull << 40).status()), "KVM_INVALID");
}

// The identity that layouts are compared by.
TEST_F(VmOnKvm, EachGuestMemfdHasAnInodeOfItsOwnThatCopiesShare) {
  const absl::StatusOr<UniqueFd> other = vm_->CreateGuestMemfd(kBytes, 0);
  const absl::StatusOr<UniqueFd> copy = Duplicate(memory_.borrow());
  ASSERT_TRUE(other.ok() && copy.ok());
  const FileIdentity identity = Identify(memory_.borrow()).value();
  EXPECT_EQ(identity.size_bytes, kBytes);
  EXPECT_EQ(identity.id, Identify(copy->borrow())->id);
  EXPECT_NE(identity.id, Identify(other->borrow())->id);
}

TEST_F(VmOnKvm, ABoundSlotIsImmutable) {
  ASSERT_EQ(Reason(Slot()), "");
  EXPECT_EQ(Reason(Slot()), "MEMSLOT_INVALID");             // the same again
  EXPECT_EQ(Reason(Slot(kBytes)), "MEMSLOT_INVALID");       // moved
  EXPECT_EQ(Reason(Slot(0, 0, kPage)), "MEMSLOT_INVALID");  // shrunk
  Memslot without_guest_memfd = Slot();
  without_guest_memfd.flags = 0;
  EXPECT_EQ(ReasonOf(vm_->SetMemslot(without_guest_memfd, BorrowedFd())), "MEMSLOT_INVALID");
  Memslot logged = Slot();
  logged.flags |= kMemslotDirtyLog;
  EXPECT_EQ(Reason(logged), "MEMSLOT_INVALID");
  EXPECT_TRUE(vm_->DeleteMemslot(0, 0).ok());
  EXPECT_EQ(Reason(Slot(kBytes)), "");
}

TEST_F(VmOnKvm, BadBindingsAreRefused) {
  EXPECT_EQ(Reason(Slot(0, kPage)), "MEMSLOT_INVALID");  // past the end of the file
  Memslot misaligned = Slot(0, 0, kPage);
  misaligned.offset = 8;
  EXPECT_EQ(Reason(misaligned), "MEMSLOT_INVALID");
  EXPECT_EQ(ReasonOf(NewVm()->SetMemslot(Slot(), memory_.borrow())), "MEMSLOT_INVALID");
  EXPECT_EQ(ReasonOf(vm_->SetMemslot(Slot(), vm_->fd())), "MEMSLOT_INVALID");
  EXPECT_EQ(ReasonOf(vm_->SetMemslot(Slot(), BorrowedFd(1 << 20))), "BAD_FD");
  EXPECT_EQ(ReasonOf(vm_->DeleteMemslot(3, 0)), "MEMSLOT_INVALID");
  ASSERT_EQ(Reason(Slot(0, 0, 8 * kPage)), "");
  Memslot overlapping = Slot(kPage, 8 * kPage, kPage);
  overlapping.slot = 1;
  EXPECT_EQ(Reason(overlapping), "MEMSLOT_OVERLAP");
  Memslot same_bytes = Slot(32 * kPage, 0, kPage);
  same_bytes.slot = 1;
  EXPECT_EQ(Reason(same_bytes), "MEMSLOT_INVALID");
}

TEST_F(VmOnKvm, AnotherVmMayMapTheSameFileAsAnOrdinarySlot) {
  ASSERT_EQ(Reason(Slot()), "");
  Memslot slot = Slot();
  slot.flags = 0;
  EXPECT_TRUE(NewVm()->SetMemslot(slot, BorrowedFd()).ok());
}

// Every later decision about who may run the guest rests on this.
TEST_F(VmOnKvm, OnlyTheCreatorsAddressSpaceMayUseAVm) {
  const absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = vm_->CreateVcpu(0);
  ASSERT_TRUE(vcpu.ok());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool vm_dead = ReasonOf(vm_->Probe()) == "VM_DEAD";
    const bool vcpu_dead = ReasonOf((*vcpu)->Run().status()) == "VM_DEAD";
    const bool no_vcpu = ReasonOf(vm_->CreateVcpu(1).status()) == "VM_DEAD";
    const bool memory_works = Identify(memory_.borrow()).ok();
    _exit(vm_dead && vcpu_dead && no_vcpu && memory_works ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(vm_->Probe().ok());
}

// Upstream has no LINK; a patched kernel refuses what is no guest_memfd.
TEST_F(VmOnKvm, LinkOfAnOrdinaryFileFails) {
  const UniqueFd file(memfd_create("not guest_memfd", MFD_CLOEXEC));
  const std::string reason = ReasonOf(vm_->LinkGuestMemfd(file.borrow()).status());
  EXPECT_TRUE(reason == "LINK_UNSUPPORTED" || reason == "LINK_REFUSED") << reason;
}

TEST_F(VmOnKvm, MoveOfADefaultVmFails) {
  const std::unique_ptr<Vm> source = NewVm();
  const std::string reason = ReasonOf(vm_->MoveEncContextFrom(source->fd()));
  EXPECT_TRUE(reason == "MOVE_UNSUPPORTED" || reason == "MOVE_MISMATCH") << reason;
  EXPECT_TRUE(source->Probe().ok());
}

TEST_F(VmOnKvm, DefaultVmsHaveNoPrivateMemory) {
  ASSERT_EQ(Reason(Slot()), "");
  const std::string reason = ReasonOf(vm_->SetPrivate(0, kPage, true));
  EXPECT_TRUE(reason == "MEMORY_ATTRIBUTES_UNSUPPORTED" || reason == "KVM_INVALID") << reason;
}

TEST_F(VmOnKvm, VcpusAreCreatedOnce) {
  const absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = vm_->CreateVcpu(0);
  ASSERT_TRUE(vcpu.ok());
  EXPECT_EQ(ReasonOf(vm_->CreateVcpu(0).status()), "VCPU_EXISTS");
  EXPECT_EQ(ReasonOf(vm_->CreateVcpu(1u << 20).status()), "KVM_INVALID");
}

TEST_F(VmOnKvm, IrqchipIsCreatedOnce) {
  EXPECT_TRUE(vm_->CreateIrqchip().ok());
  EXPECT_EQ(ReasonOf(vm_->CreateIrqchip()), "IRQCHIP_EXISTS");
}

TEST_F(VmOnKvm, SevNeedsASevVm) {
  const std::string reason = ReasonOf(vm_->InitSev());
  EXPECT_TRUE(reason == "SEV_UNSUPPORTED" || reason == "SEV_LAUNCH_REFUSED") << reason;
}

}  // namespace
}  // namespace rehome
