// SPDX-License-Identifier: Apache-2.0
//
// What the rules stand on: raw calls that answer "value or -errno", as the kernel's own selftests
// have them, and guests that are the same on every kernel: three programs of a few bytes of 16-bit
// code, which a real kernel runs and the simulated CPU (sim_guest.h) knows by their addresses.
#ifndef REHOME_TESTS_CONFORMANCE_BENCH_H_
#define REHOME_TESTS_CONFORMANCE_BENCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
#include "kvmglue/test_process.h"
#include "kvmglue/vm_type.h"

namespace rehome::conformance {

inline constexpr uint64_t kPage = 4096;

// A guest's memory. The page of code is an ordinary slot with memory of this process: shared, so
// that KVM may decode from it, and the rest of it is what the test and the guest both see.
inline constexpr uint32_t kCodeSlot = 0;
inline constexpr uint64_t kCodeGpa = 0x1000;
inline constexpr uint64_t kCounterGpa = kCodeGpa + 0x800;
// The guest_memfd.
inline constexpr uint32_t kMemorySlot = 1;
inline constexpr uint64_t kMemoryGpa = 0x100000;
inline constexpr uint64_t kMemoryBytes = 16 * kPage;

// Where the programs lie in the page of code. DS:BX is the word, EAX the value.
enum class Program : uint64_t {
  kStore = 0x00,  // mov [bx], eax; hlt
  kLoad = 0x10,   // mov eax, [bx]; hlt
  kCount = 0x20,  // inc dword [bx], for ever
};

// How KVM_RUN ended.
struct Ran {
  long result = 0;  // 0 or -errno
  uint32_t exit_reason = 0;
  uint32_t value = 0;          // EAX
  MemoryFaultExit fault = {};  // what lies where KVM_EXIT_MEMORY_FAULT has it

  bool Halted() const { return result == 0 && exit_reason == KVM_EXIT_HLT; }
};

// One kernel with /dev/kvm open. Every call returns its value, or -errno.
class Bench {
 public:
  explicit Bench(KvmSyscalls& kernel, LinkAbi link_abi = {});

  KvmSyscalls& kernel() { return kernel_; }
  BorrowedFd kvm() const { return kvm_.borrow(); }
  // The type on which the rules of guest_memfd itself are tried: SW_PROTECTED where there is one.
  VmType memory_type() const { return memory_type_; }

  long Call(BorrowedFd fd, unsigned long request, const void* argument);
  long Call(BorrowedFd fd, unsigned long request, unsigned long number = 0);

  long TryCreateVm(uint64_t type);
  long TryCreateMemory(BorrowedFd vm, uint64_t bytes, uint64_t flags = 0);
  long TryLink(BorrowedFd vm, BorrowedFd source);
  long TryLink(BorrowedFd vm, const LinkGuestMemfdArgs& arguments);
  long SetSlot(BorrowedFd vm, const kvm_userspace_memory_region2& region);
  long DeleteSlot(BorrowedFd vm, uint32_t slot);
  long SetPrivate(BorrowedFd vm, uint64_t gpa, uint64_t bytes, bool is_private);
  long Move(BorrowedFd destination, BorrowedFd source);
  // Whether the VM is dead: KVM_CHECK_EXTENSION, which every live VM answers, is EIO.
  bool IsDead(BorrowedFd vm);

  // These must succeed; a failure is the test's, and the fd invalid.
  UniqueFd CreateVm(VmType type);
  UniqueFd CreateMemory(BorrowedFd vm, uint64_t bytes, uint64_t flags = 0);
  UniqueFd Link(BorrowedFd vm, BorrowedFd source);

  size_t run_bytes() const { return run_bytes_; }

 private:
  KvmSyscalls& kernel_;
  const LinkAbi link_abi_;
  UniqueFd kvm_;
  VmType memory_type_;
  size_t run_bytes_;
};

// A vCPU and its kvm_run.
class TestVcpu {
 public:
  TestVcpu(Bench& bench, BorrowedFd vm, uint32_t id);
  ~TestVcpu();
  TestVcpu(const TestVcpu&) = delete;
  TestVcpu& operator=(const TestVcpu&) = delete;

  BorrowedFd fd() const { return fd_.borrow(); }
  kvm_run* run() const { return run_; }
  // Sets all registers that matter, and runs.
  Ran Run(Program program, uint64_t gpa, uint32_t value);

 private:
  Bench& bench_;
  UniqueFd fd_;
  kvm_run* run_ = nullptr;
};

// A VM with the page of code and vCPUs. Public where the rules pull it to pieces.
struct Guest {
  Guest(Bench& bench, VmType type, uint32_t vcpu_count = 1);

  // Binds [offset, offset + bytes) of `memory`.
  long Bind(uint64_t gpa = kMemoryGpa, uint64_t bytes = kMemoryBytes, uint64_t offset = 0);
  long Bind(BorrowedFd file, uint32_t slot, uint64_t gpa, uint64_t bytes, uint64_t offset);

  // By vCPU 0.
  Ran Store(uint64_t gpa, uint32_t value) { return vcpus[0]->Run(Program::kStore, gpa, value); }
  Ran Load(uint64_t gpa) { return vcpus[0]->Run(Program::kLoad, gpa, 0); }
  // What a counting guest has come to.
  uint32_t Counter() const;

  Bench* bench;
  std::unique_ptr<testing::HostPages> code = std::make_unique<testing::HostPages>(kPage);
  // userspace_addr of all slots with guest_memfd: what a private guest sees of it is nothing.
  std::unique_ptr<testing::HostPages> shared = std::make_unique<testing::HostPages>(kMemoryBytes);
  uint64_t hva = shared->address();
  UniqueFd vm;
  UniqueFd memory;
  std::vector<std::unique_ptr<TestVcpu>> vcpus;
};

// With private memory at kMemoryGpa, whose first word is kSecret.
inline constexpr uint32_t kSecret = 0xdeadbeef;
Guest MakeSource(Bench& bench, uint32_t vcpu_count = 1);
// Linked, but nothing is bound.
Guest MakeUnboundTarget(Bench& bench, BorrowedFd source_memory, uint32_t vcpu_count = 1);
// Linked and bound as the source is: could take over.
Guest MakeTarget(Bench& bench, BorrowedFd source_memory, uint32_t vcpu_count = 1);

// A vCPU that counts at kCounterGpa, in a thread of its own; constructed when it does.
class Counting {
 public:
  explicit Counting(Guest& guest);
  ~Counting();
  // Gets it out of KVM_RUN. What KVM_RUN said.
  Ran Stop();

 private:
  Guest& guest_;
  Ran ran_;
  std::thread thread_;
};

// fallocate(2), which is the kernel's whether or not it is simulated: 0 or errno.
int PunchHole(BorrowedFd memory, uint64_t offset, uint64_t bytes);
int Allocate(BorrowedFd memory, uint64_t offset, uint64_t bytes);

// Waits for `condition`; false after kPatience.
bool Eventually(const std::function<bool()>& condition);
inline constexpr int kPatienceSeconds = 60;  // for a kernel that is emulated, on a busy machine

}  // namespace rehome::conformance

#endif  // REHOME_TESTS_CONFORMANCE_BENCH_H_
