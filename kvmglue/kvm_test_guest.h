// SPDX-License-Identifier: Apache-2.0
//
// A tiny guest for tests on real KVM: 64-bit code in user mode (CPL 3), which every KVM runs
// natively, also one that has to emulate kernel mode. It counts, and writes down what it sees.
#ifndef REHOME_KVMGLUE_KVM_TEST_GUEST_H_
#define REHOME_KVMGLUE_KVM_TEST_GUEST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm.h"

namespace rehome::testing {

inline constexpr uint64_t kGuestBytes = 4u << 20;
inline constexpr uint64_t kXmmMark = 0x1234567890abcdef;
inline constexpr uint16_t kGuestPort = 0x3f8;
inline constexpr uint8_t kPortAnswer = 0x5a;

// What the guest writes, at kMailbox.
struct Mailbox {
  uint64_t count;  // of loops; kept in a register, so a lost register shows
  uint64_t tsc;
  uint64_t xmm;
  uint64_t port_answer;
};
inline constexpr uint64_t kMailbox = 0x100000;

enum class Program {
  kCount,  // for ever, in user mode
  // IN from kGuestPort, stores the answer, and again. In kernel mode: where user mode runs natively
  // without hardware virtualization, port I/O there is not the VMM's to see.
  kPortIo,
};

// Memory of the guest: a file mapped here.
class GuestRam {
 public:
  // Maps the whole of `file`, which must have kGuestBytes.
  explicit GuestRam(UniqueFd file);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  BorrowedFd file() const { return file_.borrow(); }
  // An ordinary memslot over all of it, as a target in a MAP strategy has.
  Memslot Slot() const;
  // Page tables, descriptors, code.
  void Load(Program program);
  uint64_t Count() const;
  Mailbox Read() const;

 private:
  UniqueFd file_;
  uint8_t* base_;
};

// Registers with which the loaded program starts.
void SetBootState(Program program, VcpuState& state);

// Runs `vcpu` on a thread of its own until Stop(); exits other than interruptions end it.
class VcpuThread {
 public:
  explicit VcpuThread(Vcpu& vcpu);
  ~VcpuThread();
  // Kicks and joins. The exit that ended the loop.
  absl::StatusOr<VcpuExit> Stop();

 private:
  Vcpu& vcpu_;
  std::atomic<bool> stop_{false};
  absl::StatusOr<VcpuExit> last_ = VcpuExit::kInterrupted;
  std::thread thread_;
};

// Waits until `condition` holds; false after 20 s.
bool Eventually(const std::function<bool()>& condition);

}  // namespace rehome::testing

#endif  // REHOME_KVMGLUE_KVM_TEST_GUEST_H_
