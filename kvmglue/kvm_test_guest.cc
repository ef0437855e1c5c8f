// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/kvm_test_guest.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include <cassert>
#include <chrono>
#include <cstring>

namespace rehome::testing {
namespace {

constexpr uint64_t kGdt = 0x1000;
constexpr uint64_t kPml4 = 0x2000;
constexpr uint64_t kPdpt = 0x3000;
constexpr uint64_t kPageDirectory = 0x4000;
constexpr uint64_t kCode = 0x10000;
constexpr uint64_t kStackTop = 0x180000;

struct Selectors {
  uint16_t code, data;
  uint8_t privilege;
};
constexpr Selectors kKernelMode = {0x08, 0x10, 0};
constexpr Selectors kUserMode = {0x33, 0x2b, 3};

// loop: inc rbx; mov [count], rbx; rdtsc; shl rdx, 32; or rax, rdx; mov [tsc], rax;
//       movq [xmm], xmm7; jmp loop
constexpr uint8_t kCountCode[] = {0x48, 0xff, 0xc3, 0x48, 0x89, 0x1c, 0x25, 0x00, 0x00, 0x10,
                                  0x00, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0,
                                  0x48, 0x89, 0x04, 0x25, 0x08, 0x00, 0x10, 0x00, 0x66, 0x0f,
                                  0xd6, 0x3c, 0x25, 0x10, 0x00, 0x10, 0x00, 0xeb, 0xd9};

// loop: mov dx, port; in al, dx; movzx eax, al; mov [port_answer], rax; inc rbx; mov [count], rbx;
//       jmp loop
constexpr uint8_t kPortIoCode[] = {0x66, 0xba, 0xf8, 0x03, 0xec, 0x0f, 0xb6, 0xc0, 0x48, 0x89,
                                   0x04, 0x25, 0x18, 0x00, 0x10, 0x00, 0x48, 0xff, 0xc3, 0x48,
                                   0x89, 0x1c, 0x25, 0x00, 0x00, 0x10, 0x00, 0xeb, 0xe3};

kvm_segment Segment(uint16_t selector, uint8_t privilege, bool code) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xffffffff;
  segment.present = segment.s = segment.g = 1;
  segment.dpl = privilege;
  segment.type = code ? 11 : 3;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

void Interrupt(int) {}

}  // namespace

GuestRam::GuestRam(UniqueFd file) : file_(std::move(file)) {
  void* base = mmap(nullptr, kGuestBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.borrow().raw(),
                    /*offset=*/0);
  assert(base != MAP_FAILED);
  base_ = static_cast<uint8_t*>(base);
}

GuestRam::~GuestRam() { munmap(base_, kGuestBytes); }

Memslot GuestRam::Slot() const {
  return {.size_bytes = kGuestBytes,
          .inode = Identify(file()).value().id,
          .hva = reinterpret_cast<uint64_t>(base_)};
}

void GuestRam::Load(Program program) {
  constexpr uint64_t kTable = 0x07;                      // present, writable, user
  constexpr uint64_t kLargePage = 0x80 | 0x60 | kTable;  // accessed and dirty already
  const auto write = [this](uint64_t gpa, uint64_t value) {
    std::memcpy(base_ + gpa, &value, sizeof(value));
  };
  write(kPml4, kPdpt | kTable);
  write(kPdpt, kPageDirectory | kTable);
  for (uint64_t i = 0; i < kGuestBytes >> 21; ++i)
    write(kPageDirectory + i * 8, i << 21 | kLargePage);
  write(kGdt + kKernelMode.code, 0x00af9b000000ffff);
  write(kGdt + kKernelMode.data, 0x00cf93000000ffff);
  write(kGdt + (kUserMode.code & ~7), 0x00affb000000ffff);
  write(kGdt + (kUserMode.data & ~7), 0x00cff3000000ffff);
  if (program == Program::kCount) std::memcpy(base_ + kCode, kCountCode, sizeof(kCountCode));
  if (program == Program::kPortIo) std::memcpy(base_ + kCode, kPortIoCode, sizeof(kPortIoCode));
}

uint64_t GuestRam::Count() const {
  return __atomic_load_n(reinterpret_cast<const uint64_t*>(base_ + kMailbox), __ATOMIC_RELAXED);
}

Mailbox GuestRam::Read() const {
  Mailbox mailbox;
  std::memcpy(&mailbox, base_ + kMailbox, sizeof(mailbox));
  return mailbox;
}

void SetBootState(Program program, VcpuState& state) {
  const Selectors mode = program == Program::kCount ? kUserMode : kKernelMode;
  kvm_sregs& sregs = state.sregs;
  sregs.cs = Segment(mode.code, mode.privilege, true);
  sregs.ds = Segment(mode.data, mode.privilege, false);
  sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
  sregs.tr = {};
  sregs.tr.type = 11;
  sregs.tr.present = 1;
  sregs.tr.limit = 0x67;
  sregs.tr.selector = 0x18;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt.base = kGdt;
  sregs.gdt.limit = 63;
  sregs.idt = {};
  sregs.cr0 = 0x80050033;
  sregs.cr3 = kPml4;
  sregs.cr4 = 0x620;   // PAE, OSFXSR, OSXMMEXCPT
  sregs.efer = 0x500;  // LME, LMA
  state.regs = {};
  state.regs.rip = kCode;
  state.regs.rsp = kStackTop;
  state.regs.rflags = 0x3002;             // IOPL 3: user mode may do port I/O
  constexpr size_t kXmm7 = 160 + 7 * 16;  // FXSAVE area
  std::memcpy(state.xsave + kXmm7, &kXmmMark, sizeof(kXmmMark));
  constexpr size_t kXstateBv = 512;  // XSAVE header: x87 and SSE are not in their initial state
  const uint64_t xstate_bv = 3;
  std::memcpy(state.xsave + kXstateBv, &xstate_bv, sizeof(xstate_bv));
  state.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
}

VcpuThread::VcpuThread(Vcpu& vcpu) : vcpu_(vcpu) {
  struct sigaction action = {};
  action.sa_handler = Interrupt;
  sigaction(SIGUSR1, &action, nullptr);
  vcpu_.ClearImmediateExit();
  thread_ = std::thread([this] {
    do {
      last_ = vcpu_.Run();
    } while (last_.ok() && *last_ == VcpuExit::kInterrupted && !stop_);
  });
}

VcpuThread::~VcpuThread() {
  if (thread_.joinable()) (void)Stop();
}

absl::StatusOr<VcpuExit> VcpuThread::Stop() {
  stop_ = true;
  vcpu_.Kick(thread_.native_handle(), SIGUSR1);
  thread_.join();
  return last_;
}

bool Eventually(const std::function<bool()>& condition) {
  constexpr auto kPatience = std::chrono::seconds(20);  // for a machine that does much else
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    sched_yield();
  }
  return true;
}

}  // namespace rehome::testing
