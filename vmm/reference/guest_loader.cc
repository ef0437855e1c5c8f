// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_loader.h"

#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest/payload.h"
#include "vmm/reference/guest/step.h"
#include "vmm/reference/guest_check.h"
#include "vmm/reference/segment.h"

namespace rehome {
namespace {

constexpr uint64_t kGib = 1 << 30;
constexpr uint64_t kLargePage = 2 << 20;

// ---- Descriptors (Intel SDM 3A, 3.4.5).
constexpr uint64_t kKernelCode = 0x00af9b000000ffff;
constexpr uint64_t kUserData = 0x00cff3000000ffff;
constexpr uint64_t kUserCode = 0x00affb000000ffff;
constexpr uint64_t kInterruptGate = 0x8e00ull << 32;  // present, DPL 0

// ---- Page tables: present, writable, user, accessed; leaves dirty and large.
constexpr uint64_t kTable = 0x27;
constexpr uint64_t kLeaf = 0xe7;

// ---- Registers.
constexpr uint64_t kCr0 = 0x80050033;  // PG AM WP NE ET MP PE
constexpr uint64_t kCr4 = 0x620;       // PAE OSFXSR OSXMMEXCPT
constexpr uint64_t kEfer = 0x500;      // LME LMA
// IF, and IOPL 3: QEMU that emulates SVM looks at no I/O bitmap of a busy TSS, PVM at no IOPL.
constexpr uint64_t kRflags = 0x3202;
constexpr uint64_t kX2Apic = 0xc00;  // APIC base: enabled, x2APIC
constexpr uint32_t kMsrKvmSystemTime = 0x4b564d01;
constexpr uint32_t kClockEnabled = 1;

// ---- Local APIC registers, offsets in the register page (SDM 3A, 11.4.1).
constexpr size_t kApicSpurious = 0xf0;
constexpr size_t kApicTimerVector = 0x320;
constexpr size_t kApicTimerInitial = 0x380;
constexpr size_t kApicTimerDivide = 0x3e0;
constexpr uint32_t kSpuriousEnabled = 0x1ff;
constexpr uint32_t kTimerPeriodic = 1 << 17;
constexpr uint32_t kDivideByOne = 0xb;
// KVM's APIC timer counts nanoseconds (APIC_BUS_CYCLE_NS, arch/x86/kvm/lapic.h): 100 Hz.
constexpr uint32_t kTimerPeriod = 10'000'000;

template <typename T>
T* At(std::span<std::byte> ram, uint64_t offset) {
  return reinterpret_cast<T*>(ram.data() + offset);
}

// Counts the host's TSC against the clock; guests of this VMM see that TSC.
uint64_t MeasureTscKhz() {
  constexpr auto kInterval = std::chrono::milliseconds(10);
  const auto start = std::chrono::steady_clock::now();
  const uint64_t tsc = __rdtsc();
  auto now = start;
  while (now - start < kInterval) now = std::chrono::steady_clock::now();
  const uint64_t cycles = __rdtsc() - tsc;
  return cycles * 1'000'000 /
         std::chrono::duration_cast<std::chrono::nanoseconds>(now - start).count();
}

void WriteDescriptors(std::span<std::byte> ram, uint32_t vcpu_count) {
  auto* gdt = At<uint64_t>(ram, REHOME_GUEST_GDT);
  gdt[REHOME_GUEST_KERNEL_CS / 8] = kKernelCode;
  gdt[REHOME_GUEST_USER_DS / 8] = kUserData;
  gdt[REHOME_GUEST_USER_CS / 8] = kUserCode;

  auto* idt = At<uint64_t>(ram, REHOME_GUEST_IDT);
  const auto set_gate = [idt](uint32_t vector, uint64_t handler) {
    idt[vector * 2] = (handler & 0xffff) | (handler >> 16 & 0xffff) << 48 |
                      uint64_t{REHOME_GUEST_KERNEL_CS} << 16 | kInterruptGate;
    idt[vector * 2 + 1] = handler >> 32;
  };
  for (uint32_t v = 0; v < REHOME_GUEST_EXCEPTION_COUNT; ++v) {
    set_gate(v, REHOME_GUEST_EXCEPTION_STUBS + v * 16);
  }
  set_gate(REHOME_GUEST_TIMER_VECTOR, REHOME_GUEST_TIMER_STUB);

  for (uint32_t i = 0; i < vcpu_count; ++i) {
    const uint64_t rsp0 =
        REHOME_GUEST_INTERRUPT_STACKS + (i + 1) * REHOME_GUEST_INTERRUPT_STACK_SIZE - 16;
    auto* tss = At<std::byte>(ram, REHOME_GUEST_TSS + i * REHOME_GUEST_TSS_STRIDE);
    const uint16_t io_bitmap = REHOME_GUEST_TSS_IO_BITMAP;
    std::memcpy(tss + 4, &rsp0, sizeof(rsp0));
    std::memcpy(tss + 102, &io_bitmap, sizeof(io_bitmap));
    tss[REHOME_GUEST_TSS_IO_BITMAP_END] = std::byte{0xff};
    *At<uint64_t>(ram, rsp0) = REHOME_GUEST_MAILBOXES + i * REHOME_GUEST_MAILBOX_STRIDE;
  }
}

// Identity mapping in 2 MiB pages of everything up to the end of RAM.
void WritePageTables(std::span<std::byte> ram, uint64_t ram_bytes) {
  const uint64_t end = rehome_guest_gpa(ram_bytes - 1) + 1;
  const uint64_t directory_pointers = REHOME_GUEST_PAGE_TABLES + REHOME_GUEST_PAGE;
  *At<uint64_t>(ram, REHOME_GUEST_PAGE_TABLES) = directory_pointers | kTable;
  for (uint64_t gib = 0; gib * kGib < end; ++gib) {
    const uint64_t directory = directory_pointers + (gib + 1) * REHOME_GUEST_PAGE;
    At<uint64_t>(ram, directory_pointers)[gib] = directory | kTable;
    for (uint64_t i = 0; i < 512; ++i) {
      At<uint64_t>(ram, directory)[i] = (gib * kGib + i * kLargePage) | kLeaf;
    }
  }
}

void SetRegs(uint32_t vcpu, kvm_regs& regs) {
  regs = {};
  regs.rip = REHOME_GUEST_CODE;
  regs.rflags = kRflags;
  regs.rsp = REHOME_GUEST_STACKS + (vcpu + 1) * REHOME_GUEST_STACK_SIZE;
  regs.rdi = vcpu;
}

// Position of an MSR in the state; state.msrs.count if KVM does not have it.
uint32_t FindMsr(const VcpuState& state, uint32_t index) {
  uint32_t i = 0;
  while (i < state.msrs.count && state.msrs.entries[i].index != index) ++i;
  return i;
}

void SetTimer(kvm_lapic_state& lapic) {
  const auto set = [&lapic](size_t offset, uint32_t value) {
    std::memcpy(lapic.regs + offset, &value, sizeof(value));
  };
  set(kApicSpurious, kSpuriousEnabled);
  set(kApicTimerDivide, kDivideByOne);
  set(kApicTimerVector, REHOME_GUEST_TIMER_VECTOR | kTimerPeriodic);
  set(kApicTimerInitial, kTimerPeriod);
}

}  // namespace

rehome_guest_boot_info MakeBootInfo(const GuestOptions& options, const GuestRam& ram) {
  rehome_guest_boot_info boot = {};
  boot.abi_version = REHOME_GUEST_ABI_VERSION;
  boot.vcpu_count = options.vcpus;
  boot.ram_bytes = ram.size_bytes();
  boot.seed = options.seed;
  const uint64_t most = rehome_guest_max_working_set(boot.ram_bytes, boot.vcpu_count);
  boot.working_set_pages =
      options.working_set_pages == 0 ? most : std::min(options.working_set_pages, most);
  boot.tsc_khz = MeasureTscKhz();
  boot.heartbeat_tsc = boot.tsc_khz * options.heartbeat_ms;
  boot.step_tsc = boot.tsc_khz * options.step_ns / 1'000'000;
  boot.code_digest = GuestCodeDigest({});
  boot.memory_count = static_cast<uint32_t>(ram.file_count());
  for (const RamSlot& slot : ram.slots()) {
    boot.memory_bytes[slot.memory_index] += slot.slot.size_bytes;
    boot.memory_inode[slot.memory_index] = slot.slot.inode.inode;
  }
  return boot;
}

void LoadGuest(rehome_guest_boot_info& boot, std::span<std::byte> low_ram) {
  const std::span<const uint8_t> code = GuestPayload();
  std::memcpy(At<std::byte>(low_ram, REHOME_GUEST_CODE), code.data(), code.size());
  boot.code_size = code.size();
  boot.code_digest = GuestCodeDigest(code);
  boot.magic = REHOME_GUEST_MAGIC;
  WriteDescriptors(low_ram, boot.vcpu_count);
  WritePageTables(low_ram, boot.ram_bytes);
  std::memcpy(At<std::byte>(low_ram, REHOME_GUEST_BOOT_INFO), &boot, sizeof(boot));
}

void SetGuestSregs(uint32_t vcpu, kvm_sregs& sregs) {
  sregs.cs = FlatSegment(REHOME_GUEST_USER_CS, true, /*dpl=*/3);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
      FlatSegment(REHOME_GUEST_USER_DS, false, /*dpl=*/3);
  sregs.tr = {};
  sregs.tr.base = REHOME_GUEST_TSS + vcpu * REHOME_GUEST_TSS_STRIDE;
  sregs.tr.limit = REHOME_GUEST_TSS_IO_BITMAP_END;
  sregs.tr.selector = REHOME_GUEST_TSS_SELECTOR;
  sregs.tr.type = 11;  // busy 64-bit TSS
  sregs.tr.present = 1;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt = {.base = REHOME_GUEST_GDT, .limit = 63};
  sregs.idt = {.base = REHOME_GUEST_IDT, .limit = 4095};
  sregs.cr0 = kCr0;
  sregs.cr3 = REHOME_GUEST_PAGE_TABLES;
  sregs.cr4 = kCr4;
  sregs.efer = kEfer;
}

bool HasKvmclock(const VcpuState& state) {
  return FindMsr(state, kMsrKvmSystemTime) < state.msrs.count;
}

absl::Status StartGuestVcpu(const rehome_guest_boot_info& boot, Vcpu& vcpu) {
  auto state = std::make_unique<VcpuState>();
  absl::Status status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  SetGuestSregs(vcpu.index(), state->sregs);
  if (boot.timer != 0) state->sregs.apic_base |= kX2Apic;
  SetRegs(vcpu.index(), state->regs);
  state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
  if (boot.kvmclock != 0) {
    const uint64_t page = REHOME_GUEST_PVCLOCK + vcpu.index() * REHOME_GUEST_PVCLOCK_STRIDE;
    state->msrs.entries[FindMsr(*state, kMsrKvmSystemTime)].data = page | kClockEnabled;
  }
  status = vcpu.RestoreState(*state);
  if (!status.ok() || boot.timer == 0) return status;
  // Read again: entering x2APIC mode has changed the LAPIC's registers.
  status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  SetTimer(state->lapic);
  return vcpu.RestoreState(*state);
}

absl::Status StartSimVcpu(Vcpu& vcpu) {
  auto state = std::make_unique<VcpuState>();
  absl::Status status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
  return vcpu.RestoreState(*state);
}

}  // namespace rehome
