// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "tests/conformance/bench.h"

namespace rehome::conformance {
namespace {

constexpr uint8_t kStoreCode[] = {0x66, 0x89, 0x07, 0xf4};
constexpr uint8_t kLoadCode[] = {0x66, 0x8b, 0x07, 0xf4};
constexpr uint8_t kCountCode[] = {0x66, 0xff, 0x07, 0xeb, 0xfb};

void Put(testing::HostPages& code, Program program, const uint8_t* bytes, size_t count) {
  std::memcpy(reinterpret_cast<uint8_t*>(code.address()) + static_cast<uint64_t>(program), bytes,
              count);
}

// Its only effect is that a system call returns.
void Interrupt(int) {}

}  // namespace

TestVcpu::TestVcpu(Bench& bench, BorrowedFd vm, uint32_t id) : bench_(bench) {
  const long created = bench.Call(vm, KVM_CREATE_VCPU, id);
  EXPECT_GE(created, 0) << "KVM_CREATE_VCPU";
  fd_ = UniqueFd(static_cast<int>(created));
  void* address = nullptr;
  EXPECT_TRUE(bench.kernel().MapShared(fd(), bench.run_bytes(), 0, &address).ok());
  run_ = static_cast<kvm_run*>(address);
}

TestVcpu::~TestVcpu() {
  if (run_ != nullptr) munmap(run_, bench_.run_bytes());
}

Ran TestVcpu::Run(Program program, uint64_t gpa, uint32_t value) {
  kvm_sregs sregs = {};
  Ran ran;
  ran.result = bench_.Call(fd(), KVM_GET_SREGS, &sregs);
  if (ran.result < 0) return ran;
  // Real mode, where a segment's base may be anything, so that BX reaches all of memory.
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  sregs.ds.base = gpa & ~(kPage - 1);
  sregs.ds.selector = static_cast<uint16_t>(sregs.ds.base >> 4);
  kvm_regs regs = {};
  regs.rflags = 2;
  regs.rip = kCodeGpa + static_cast<uint64_t>(program);
  regs.rbx = gpa & (kPage - 1);
  regs.rax = value;
  ran.result = bench_.Call(fd(), KVM_SET_SREGS, &sregs);
  if (ran.result == 0) ran.result = bench_.Call(fd(), KVM_SET_REGS, &regs);
  if (ran.result < 0) return ran;
  ran.result = bench_.Call(fd(), KVM_RUN);
  ran.exit_reason = run_->exit_reason;
  std::memcpy(&ran.fault, &run_->hw, sizeof(ran.fault));
  if (bench_.Call(fd(), KVM_GET_REGS, &regs) == 0) ran.value = static_cast<uint32_t>(regs.rax);
  return ran;
}

Guest::Guest(Bench& bench, VmType type, uint32_t vcpu_count)
    : bench(&bench), vm(bench.CreateVm(type)) {
  Put(*code, Program::kStore, kStoreCode, sizeof(kStoreCode));
  Put(*code, Program::kLoad, kLoadCode, sizeof(kLoadCode));
  Put(*code, Program::kCount, kCountCode, sizeof(kCountCode));
  EXPECT_EQ(bench.SetSlot(vm.borrow(), {.slot = kCodeSlot,
                                        .guest_phys_addr = kCodeGpa,
                                        .memory_size = kPage,
                                        .userspace_addr = code->address()}),
            0);
  for (uint32_t id = 0; id < vcpu_count; ++id) {
    vcpus.push_back(std::make_unique<TestVcpu>(bench, vm.borrow(), id));
  }
}

long Guest::Bind(uint64_t gpa, uint64_t bytes, uint64_t offset) {
  return Bind(memory.borrow(), kMemorySlot, gpa, bytes, offset);
}

long Guest::Bind(BorrowedFd file, uint32_t slot, uint64_t gpa, uint64_t bytes, uint64_t offset) {
  return bench->SetSlot(vm.borrow(), {.slot = slot,
                                      .flags = KVM_MEM_GUEST_MEMFD,
                                      .guest_phys_addr = gpa,
                                      .memory_size = bytes,
                                      .userspace_addr = hva,
                                      .guest_memfd_offset = offset,
                                      .guest_memfd = static_cast<uint32_t>(file.raw())});
}

uint32_t Guest::Counter() const {
  return __atomic_load_n(
      reinterpret_cast<const uint32_t*>(code->address() + (kCounterGpa - kCodeGpa)),
      __ATOMIC_RELAXED);
}

Guest MakeSource(Bench& bench, uint32_t vcpu_count) {
  Guest source(bench, VmType::kSwProtected, vcpu_count);
  source.memory = bench.CreateMemory(source.vm.borrow(), kMemoryBytes);
  EXPECT_EQ(source.Bind(), 0);
  EXPECT_EQ(bench.SetPrivate(source.vm.borrow(), kMemoryGpa, kMemoryBytes, true), 0);
  EXPECT_TRUE(source.Store(kMemoryGpa, kSecret).Halted());
  return source;
}

Guest MakeUnboundTarget(Bench& bench, BorrowedFd source_memory, uint32_t vcpu_count) {
  Guest target(bench, VmType::kSwProtected, vcpu_count);
  target.memory = bench.Link(target.vm.borrow(), source_memory);
  return target;
}

Guest MakeTarget(Bench& bench, BorrowedFd source_memory, uint32_t vcpu_count) {
  Guest target = MakeUnboundTarget(bench, source_memory, vcpu_count);
  EXPECT_EQ(target.Bind(), 0);
  return target;
}

int PunchHole(BorrowedFd memory, uint64_t offset, uint64_t bytes) {
  constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(memory.raw(), kMode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0
             ? 0
             : errno;
}

int Allocate(BorrowedFd memory, uint64_t offset, uint64_t bytes) {
  return fallocate(memory.raw(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                   static_cast<off_t>(bytes)) == 0
             ? 0
             : errno;
}

Counting::Counting(Guest& guest) : guest_(guest) {
  struct sigaction action = {};
  action.sa_handler = Interrupt;
  sigaction(SIGUSR1, &action, nullptr);
  const uint32_t before = guest.Counter();
  thread_ = std::thread([this] { ran_ = guest_.vcpus[0]->Run(Program::kCount, kCounterGpa, 0); });
  EXPECT_TRUE(Eventually([&] { return guest.Counter() != before; })) << "the guest does not run";
}

Counting::~Counting() {
  if (thread_.joinable()) (void)Stop();
}

Ran Counting::Stop() {
  kvm_run* const run = guest_.vcpus[0]->run();
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
  __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_RELEASE);
  return ran_;
}

}  // namespace rehome::conformance
