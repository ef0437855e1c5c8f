// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/test_kit.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace rehome::sim {
namespace {

uint64_t* Word(SimVcpuContext& vcpu, SimAccess access) {
  return reinterpret_cast<uint64_t*>(vcpu.Translate(vcpu.regs.rbx, sizeof(uint64_t), access));
}

int Code(long result) { return static_cast<int>(result); }

UniqueFd Expect(int fd) {
  EXPECT_GE(fd, 0) << strerrorname_np(-fd);
  return UniqueFd(fd);
}

}  // namespace

SimExit TestCpu::Step(SimVcpuContext& vcpu) {
  kvm_regs& regs = vcpu.regs;
  switch (static_cast<Program>(regs.rip)) {
    case Program::kReset:
      ++regs.rax;
      return SimExit::PortOut(0x80, 4, static_cast<uint32_t>(regs.rax));
    case Program::kHalt:
      return SimExit::Halt();
    case Program::kStore: {
      uint64_t* word = Word(vcpu, SimAccess::kWrite);
      if (word == nullptr) return SimExit::MemoryFault();
      __atomic_store_n(word, regs.rcx, __ATOMIC_RELAXED);
      return SimExit::Halt();
    }
    case Program::kLoad: {
      const uint64_t* word = Word(vcpu, SimAccess::kRead);
      if (word == nullptr) return SimExit::MemoryFault();
      regs.rcx = __atomic_load_n(word, __ATOMIC_RELAXED);
      return SimExit::Halt();
    }
    case Program::kSpin:
      ++regs.rax;
      return SimExit::Continue();
    case Program::kCount: {
      uint64_t* word = Word(vcpu, SimAccess::kWrite);
      if (word == nullptr) return SimExit::MemoryFault();
      __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
      ++regs.rax;
      return SimExit::Continue();
    }
    case Program::kOut:
      regs.rip = static_cast<uint64_t>(Program::kHalt);
      return SimExit::PortOut(static_cast<uint16_t>(regs.rdx), 4, static_cast<uint32_t>(regs.rax));
    case Program::kIn:
      regs.rip = static_cast<uint64_t>(Program::kHalt);
      return SimExit::PortIn(static_cast<uint16_t>(regs.rdx), 1);
    case Program::kShutdown:
      return SimExit::Shutdown();
    case Program::kReadTsc:
      regs.rax = vcpu.tsc();
      regs.rcx = vcpu.id();
      return SimExit::Halt();
  }
  return SimExit::Shutdown();
}

TestKernel::TestKernel(SimulatedKernelOptions options)
    : kernel_(std::move(options), cpu_), kvm_(Expect(Code(kernel_.OpenKvm().value))) {}

long TestKernel::Call(BorrowedFd fd, unsigned long request, void* argument) {
  const SysResult result = kernel_.Ioctl(fd, request, argument);
  return result.ok() ? result.value : -result.error;
}

long TestKernel::Call(BorrowedFd fd, unsigned long request, unsigned long number) {
  return Call(fd, request, reinterpret_cast<void*>(number));
}

int TestKernel::TryCreateVm(unsigned long type) { return Code(Call(kvm(), KVM_CREATE_VM, type)); }

UniqueFd TestKernel::CreateVm(VmType type) {
  return Expect(TryCreateVm(static_cast<unsigned long>(type)));
}

UniqueFd TestKernel::CreateVcpu(BorrowedFd vm, uint32_t id) {
  return Expect(Code(Call(vm, KVM_CREATE_VCPU, id)));
}

int TestKernel::TryCreateGuestMemfd(BorrowedFd vm, uint64_t size, uint64_t flags) {
  kvm_create_guest_memfd request = {.size = size, .flags = flags, .reserved = {}};
  return Code(Call(vm, KVM_CREATE_GUEST_MEMFD, &request));
}

UniqueFd TestKernel::CreateGuestMemfd(BorrowedFd vm, uint64_t size, uint64_t flags) {
  return Expect(TryCreateGuestMemfd(vm, size, flags));
}

int TestKernel::TryLink(BorrowedFd vm, BorrowedFd source, uint64_t flags) {
  LinkGuestMemfdArgs request = {
      .fd = static_cast<uint64_t>(source.raw()), .flags = flags, .reserved = {}};
  return Code(Call(vm, LinkGuestMemfdRequest(0xd6), &request));
}

UniqueFd TestKernel::Link(BorrowedFd vm, BorrowedFd source) { return Expect(TryLink(vm, source)); }

int TestKernel::TrySetRegion(BorrowedFd vm, const kvm_userspace_memory_region2& region) {
  kvm_userspace_memory_region2 copy = region;
  return Code(Call(vm, KVM_SET_USER_MEMORY_REGION2, &copy));
}

int TestKernel::Bind(BorrowedFd vm, uint32_t slot, uint64_t gpa, uint64_t size,
                     BorrowedFd guest_memfd, uint64_t offset) {
  return TrySetRegion(vm, {.slot = slot,
                           .flags = KVM_MEM_GUEST_MEMFD,
                           .guest_phys_addr = gpa,
                           .memory_size = size,
                           .guest_memfd_offset = offset,
                           .guest_memfd = static_cast<uint32_t>(guest_memfd.raw())});
}

int TestKernel::SetPrivate(BorrowedFd vm, uint64_t gpa, uint64_t size, bool is_private) {
  kvm_memory_attributes request = {.address = gpa,
                                   .size = size,
                                   .attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
                                   .flags = 0};
  return Code(Call(vm, KVM_SET_MEMORY_ATTRIBUTES, &request));
}

int TestKernel::Move(BorrowedFd destination, BorrowedFd source) {
  kvm_enable_cap cap = {};
  cap.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM;
  cap.args[0] = static_cast<uint32_t>(source.raw());
  return Code(Call(destination, KVM_ENABLE_CAP, &cap));
}

kvm_run* TestKernel::Map(BorrowedFd vcpu) {
  void* address = nullptr;
  const long size = Call(kvm(), KVM_GET_VCPU_MMAP_SIZE, 0ul);
  EXPECT_TRUE(kernel_.MapShared(vcpu, static_cast<size_t>(size), 0, &address).ok());
  return static_cast<kvm_run*>(address);
}

RunResult TestKernel::Run(BorrowedFd vcpu, Program program, uint64_t rbx, uint64_t rcx) {
  kvm_regs regs = {};
  if (const long got = Call(vcpu, KVM_GET_REGS, &regs); got < 0) return {.result = Code(got)};
  regs.rip = static_cast<uint64_t>(program);
  regs.rbx = rbx;
  regs.rcx = rcx;
  if (const long set = Call(vcpu, KVM_SET_REGS, &regs); set < 0) return {.result = Code(set)};
  return Resume(vcpu);
}

RunResult TestKernel::Resume(BorrowedFd vcpu) {
  RunResult result;
  result.result = Code(Call(vcpu, KVM_RUN, 0ul));
  Call(vcpu, KVM_GET_REGS, &result.regs);
  const kvm_run* run = Map(vcpu);
  const auto size = static_cast<size_t>(Call(kvm(), KVM_GET_VCPU_MMAP_SIZE, 0ul));
  result.exit_reason = run->exit_reason;
  if (run->exit_reason == KVM_EXIT_IO) {
    std::memcpy(&result.port_data, reinterpret_cast<const std::byte*>(run) + run->io.data_offset,
                run->io.size);
  }
  munmap(const_cast<kvm_run*>(run), size);
  return result;
}

uint32_t TestKernel::ResumeToOut(BorrowedFd vcpu) {
  const RunResult run = Resume(vcpu);
  EXPECT_EQ(run.result, 0);
  EXPECT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  return run.port_data;
}

Guest MakeGuest(TestKernel& kernel, VmType type, uint32_t vcpus) {
  Guest guest;
  guest.vm = kernel.CreateVm(type);
  for (uint32_t id = 0; id < vcpus; ++id) {
    guest.vcpus.push_back(kernel.CreateVcpu(guest.vm.borrow(), id));
  }
  guest.memory = kernel.CreateGuestMemfd(guest.vm.borrow(), kGuestSize);
  EXPECT_EQ(kernel.Bind(guest.vm.borrow(), 0, kGuestGpa, kGuestSize, guest.memory.borrow()), 0);
  EXPECT_EQ(kernel.SetPrivate(guest.vm.borrow(), kGuestGpa, kGuestSize, true), 0);
  return guest;
}

Guest MakeTarget(TestKernel& kernel, VmType type, BorrowedFd memory, uint32_t vcpus) {
  Guest target;
  target.vm = kernel.CreateVm(type);
  for (uint32_t id = 0; id < vcpus; ++id) {
    target.vcpus.push_back(kernel.CreateVcpu(target.vm.borrow(), id));
  }
  target.memory = kernel.Link(target.vm.borrow(), memory);
  // Another slot number than the source's: that is not compared.
  EXPECT_EQ(kernel.Bind(target.vm.borrow(), 7, kGuestGpa, kGuestSize, target.memory.borrow()), 0);
  return target;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(kTestTimeoutMs);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

}  // namespace rehome::sim
