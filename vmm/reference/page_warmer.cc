// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/page_warmer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest_loader.h"
#include "vmm/reference/os_status.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

constexpr uint64_t kPage = 4096;
// How often the time is looked at: 1024 pages are 0.5 ms where they are slow.
constexpr uint64_t kStride = 1024 * kPage;

// The slot: four levels of tables and the instructions.
constexpr uint64_t kRoot = kWarmerGpa;
constexpr uint64_t kPointers = kWarmerGpa + kPage;
constexpr uint64_t kDirectory = kWarmerGpa + 2 * kPage;
constexpr uint64_t kTable = kWarmerGpa + 3 * kPage;
constexpr uint64_t kCode = kWarmerGpa + 4 * kPage;
// Virtual address of the instructions: the root's second entry, beyond any RAM.
constexpr uint64_t kCodeAddress = 1ull << 39;

// Present, writable, user, accessed: as in the guest's own root, since KVM keys the pages below by
// the rights that lead there. The guest's tables are already accessed, so KVM sets no bit in them.
constexpr uint64_t kTableEntry = 0x27;
// Present, user, accessed; not writable.
constexpr uint64_t kCodeEntry = 0x25;

// IOPL 3, so that user mode may use the port that ends it, and no interrupts.
constexpr uint64_t kRflags = 0x3002;
constexpr uint16_t kDonePort = 0x80;
// rdi: first page; rsi: behind the last.
constexpr uint8_t kInstructions[] = {
    0x84, 0x07,                                     // test %al, (%rdi)
    0x48, 0x81,      0xc7, 0x00, 0x10, 0x00, 0x00,  // add $4096, %rdi
    0x48, 0x39,      0xf7,                          // cmp %rsi, %rdi
    0x72, 0xf2,                                     // jb first
    0xe6, kDonePort,                                // out %al, $kDonePort
};

// The slot's memory. KVM holds no reference on it: it must live as long as the VM, which is as long
// as the process.
absl::StatusOr<std::byte*> BuildSlotMemory() {
  void* memory =
      mmap(nullptr, kWarmerBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return OsError("mmap", "the warmer's slot", errno);
  auto* bytes = static_cast<std::byte*>(memory);
  const auto entry = [bytes](uint64_t table, uint64_t index) -> uint64_t& {
    return reinterpret_cast<uint64_t*>(bytes + (table - kWarmerGpa))[index];
  };
  entry(kRoot, 0) = (REHOME_GUEST_PAGE_TABLES + kPage) | kTableEntry;
  entry(kRoot, 1) = kPointers | kTableEntry;
  entry(kPointers, 0) = kDirectory | kTableEntry;
  entry(kDirectory, 0) = kTable | kTableEntry;
  entry(kTable, 0) = kCode | kCodeEntry;
  std::memcpy(bytes + (kCode - kWarmerGpa), kInstructions, sizeof(kInstructions));
  return bytes;
}

bool HoldsBuiltInGuest(const GuestRam& ram) {
  uint64_t magic = 0;
  const std::span<std::byte> low = ram.mapping(0);
  if (low.size() < REHOME_GUEST_RESERVED) return false;
  std::memcpy(&magic, low.data() + REHOME_GUEST_BOOT_INFO, sizeof(magic));
  return magic == REHOME_GUEST_MAGIC;
}

// One stretch of pages. False: the guest's tables do not lead there.
absl::StatusOr<bool> Touch(Vcpu& vcpu, VcpuState& state, uint64_t gpa, uint64_t bytes) {
  state.regs = {};
  state.regs.rip = kCodeAddress;
  state.regs.rflags = kRflags;
  state.regs.rdi = gpa;
  state.regs.rsi = gpa + bytes;
  absl::Status status = vcpu.RestoreState(state);
  if (!status.ok()) return status;
  vcpu.ClearImmediateExit();
  for (;;) {
    const absl::StatusOr<VcpuExit> exit = vcpu.Run();
    if (!exit.ok()) return exit.status();
    if (*exit == VcpuExit::kInterrupted) continue;
    const bool done = *exit == VcpuExit::kIo && vcpu.io().port == kDonePort;
    if (*exit == VcpuExit::kIo || *exit == VcpuExit::kMmio) {
      // Left pending, KVM would finish the instruction in the guest's first KVM_RUN, over the
      // guest's registers.
      status = vcpu.CompletePendingIo();
      if (!status.ok()) return status;
      return done;
    }
    if (*exit == VcpuExit::kShutdown) return false;
    return MakeStatus(absl::StatusCode::kInternal, "WARM_UP_FAILED",
                      absl::StrCat("warming page tables: ", vcpu.DescribeExit()));
  }
}

}  // namespace

absl::StatusOr<uint64_t> PageWarmer::Warm(Vm& vm, Vcpu& vcpu, const GuestRam& ram, uint32_t slot,
                                          std::chrono::milliseconds budget) {
  if (!HoldsBuiltInGuest(ram)) return 0;
  const auto memory = BuildSlotMemory();
  if (!memory.ok()) return memory.status();
  const Memslot memslot = {.slot = slot,
                           .gpa = kWarmerGpa,
                           .size_bytes = kWarmerBytes,
                           .flags = KVM_MEM_READONLY,
                           .hva = reinterpret_cast<uint64_t>(*memory)};
  absl::Status status = vm.SetMemslot(memslot, BorrowedFd());
  if (!status.ok()) return status;
  auto state = std::make_unique<VcpuState>();
  status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  SetGuestSregs(vcpu.index(), state->sregs);
  state->sregs.cr3 = kRoot;
  // No handler of the guest's for a fault of ours: without descriptors each is a triple fault,
  // which ends the work. With the guest's, its own code would run here, at CPL 0.
  state->sregs.idt = {};
  state->sregs.gdt = {};
  state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;

  const auto end = steady_clock::now() + budget;
  uint64_t warmed = 0;
  bool leads_there = true, is_over = false;
  const auto visited = ram.VisitResident(
      ram.size_bytes(), [&](uint64_t gpa, std::span<std::byte> run) -> absl::Status {
        for (uint64_t at = 0; at < run.size() && leads_there && steady_clock::now() < end;) {
          const uint64_t bytes = std::min(kStride, run.size() - at);
          const absl::StatusOr<bool> touched = Touch(vcpu, *state, gpa + at, bytes);
          if (!touched.ok()) return touched.status();
          leads_there = *touched;
          if (leads_there) warmed += bytes;
          at += bytes;
        }
        // To look where the rest of a large memory is takes seconds by itself.
        is_over = !leads_there || steady_clock::now() >= end;
        return is_over ? absl::DeadlineExceededError("warming") : absl::OkStatus();
      });
  if (!visited.ok() && !is_over) return visited.status();
  return warmed;
}

}  // namespace rehome
