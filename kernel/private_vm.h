// SPDX-License-Identifier: Apache-2.0
//
// A software-protected VM for tests of the kernel itself: raw ioctls, so that nothing of the
// project stands between a test and what it tests. One slot of shared memory with code, and slots
// of private memory wherever the test puts them.
//
// Code runs from shared memory only. QEMU's emulated SVM does not tell KVM the length of an
// instruction that exits; KVM then decodes it, and of private memory it sees only the shared side.
#ifndef REHOME_KERNEL_PRIVATE_VM_H_
#define REHOME_KERNEL_PRIVATE_VM_H_

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"

namespace rehome::testing {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
// Where tests put private memory: beyond the code, aligned for a huge page.
inline constexpr uint64_t kPrivateGpa = 1024 * kMiB;
inline constexpr uint32_t kLinkNumber = 0xd6;

// An anonymous shared mapping: the shared side of a guest's memory.
class SharedMemory {
 public:
  // Aligned to 2 MiB, so that the kernel can back it with huge pages.
  explicit SharedMemory(uint64_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Fills every word of it.
  void Fill(uint32_t word);

 private:
  uint64_t bytes_;
  void* mapping_;
  uint8_t* data_;
};

// What became of a KVM_RUN.
struct Exit {
  int error = 0;  // errno, 0 if the call succeeded
  uint32_t reason = 0;
  uint32_t value = 0;      // of a Read()
  uint64_t fault_gpa = 0;  // KVM_EXIT_MEMORY_FAULT
  uint64_t fault_flags = 0;
};

class TestVcpu {
 public:
  // Takes over the vCPU behind `fd`; `run_bytes` is KVM_GET_VCPU_MMAP_SIZE.
  TestVcpu(UniqueFd fd, uint64_t run_bytes);
  ~TestVcpu();
  TestVcpu(const TestVcpu&) = delete;
  TestVcpu& operator=(const TestVcpu&) = delete;

  Exit Read(uint64_t gpa);
  Exit Write(uint64_t gpa, uint32_t value);
  // Reads a word of each of so many pages.
  Exit Touch(uint64_t gpa, uint64_t pages);
  // Increments the word there for ever; see Spinner.
  Exit Spin(uint64_t gpa);
  // The next KVM_RUN, or one that a signal interrupts, ends with EINTR.
  void SetImmediateExit(bool on);
  // KVM_PRE_FAULT_MEMORY of the whole range; 0 or errno.
  int PreFault(uint64_t gpa, uint64_t bytes);
  BorrowedFd fd() const { return fd_.borrow(); }

 private:
  Exit Run(uint64_t code, uint64_t gpa, uint32_t value);

  UniqueFd fd_;
  uint64_t run_bytes_;
  kvm_run* run_;
};

// A vCPU that increments a word on a thread of its own.
class Spinner {
 public:
  Spinner(TestVcpu& vcpu, uint64_t gpa);
  ~Spinner();
  // Tells it to end. A move may be waiting for another vCPU while it holds this one: tell all of
  // them before Stop() waits for any.
  void Kick();
  // Ends it, unless it has ended: EINTR where the guest was running until now.
  Exit Stop();

 private:
  TestVcpu& vcpu_;
  Exit exit_;
  std::thread thread_;
};

class PrivateVm {
 public:
  // `type` is the VM type. Aborts the test when the kernel has no such VMs.
  explicit PrivateVm(uint32_t vcpus, uint32_t type = KVM_X86_SW_PROTECTED_VM);

  BorrowedFd fd() const { return fd_.borrow(); }
  TestVcpu& vcpu(uint32_t index = 0) { return *vcpus_[index]; }

  // The new file, empty if there is none; errno says why.
  UniqueFd CreateGuestMemfd(uint64_t bytes);
  UniqueFd Link(BorrowedFd guest_memfd);
  // The following return 0 or errno.
  int Bind(uint32_t slot, uint64_t gpa, const SharedMemory& shared, BorrowedFd guest_memfd,
           uint64_t offset = 0);
  int Unbind(uint32_t slot);
  int SetPrivate(uint64_t gpa, uint64_t bytes, bool is_private);
  int MoveFrom(BorrowedFd source);
  int Probe();                                    // any VM ioctl
  long CheckExtension(unsigned long capability);  // -1 for an error

 private:
  UniqueFd kvm_;
  UniqueFd fd_;
  SharedMemory code_;
  std::vector<std::unique_ptr<TestVcpu>> vcpus_;
};

// fallocate(2): 0 or errno.
int Populate(BorrowedFd guest_memfd, uint64_t offset, uint64_t bytes);
int Punch(BorrowedFd guest_memfd, uint64_t offset, uint64_t bytes);

}  // namespace rehome::testing

#endif  // REHOME_KERNEL_PRIVATE_VM_H_
