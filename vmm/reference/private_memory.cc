// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/private_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/segment.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = REHOME_GUEST_PAGE;
constexpr uint64_t kGib = 1 << 30;
constexpr uint64_t kLargePage = 2 << 20;
// The memslot is in the hole, so that it is nowhere in the guest's RAM: what is copied, then tables
// that map the first GiB and the hole's, then the code.
constexpr uint64_t kSlotGpa = REHOME_GUEST_HOLE_START;
constexpr uint64_t kTables = 4;  // one of each upper level, and a directory for each GiB
constexpr uint64_t kExtraPages = kTables + 1;
// Signals that have nothing to do with us end KVM_RUN as well; the copy takes milliseconds.
constexpr int kMaxRuns = 1000;

constexpr uint64_t kTable = 0x23;  // present, writable, accessed
constexpr uint64_t kLeaf = 0xe3;   // the same, dirty, large
constexpr uint64_t kCr0 = 0x80050033;
constexpr uint64_t kCr4PhysicalAddressExtension = 0x20;
constexpr uint64_t kEferLongMode = 0x500;
constexpr uint64_t kRflags = 0x2;  // no interrupts

// No HLT: KVM would take its length from the shared memory behind private code. OUT ends it.
constexpr uint8_t kCode[] = {
    0xf3, 0x48,
    0xa5,                          // rep movsq
    0xe6, REHOME_GUEST_EXIT_PORT,  // out %al, $REHOME_GUEST_EXIT_PORT
    0xeb, 0xfe,                    // jmp .
};

// The shared memory of the copy, here and in the VM.
class CopySlot {
 public:
  explicit CopySlot(uint64_t data_bytes) : data_bytes_(data_bytes) {}
  ~CopySlot() {
    if (memory_ != MAP_FAILED) munmap(memory_, size());
  }
  CopySlot(const CopySlot&) = delete;
  CopySlot& operator=(const CopySlot&) = delete;

  absl::Status Map() {
    memory_ = mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) return OsError("mmap", "shared memory of a copy", errno);
    std::memcpy(data().data() + (code_gpa() - kSlotGpa), kCode, sizeof(kCode));
    WriteTables();
    return absl::OkStatus();
  }

  std::span<std::byte> data() const { return {static_cast<std::byte*>(memory_), data_bytes_}; }
  uint64_t size() const { return data_bytes_ + kExtraPages * kPage; }
  uint64_t hva() const { return reinterpret_cast<uint64_t>(memory_); }
  uint64_t tables_gpa() const { return kSlotGpa + data_bytes_; }
  uint64_t code_gpa() const { return tables_gpa() + kTables * kPage; }

 private:
  uint64_t* Table(uint64_t number) {
    return reinterpret_cast<uint64_t*>(static_cast<std::byte*>(memory_) + data_bytes_ +
                                       number * kPage);
  }
  void WriteTables() {
    Table(0)[0] = (tables_gpa() + kPage) | kTable;
    const uint64_t gibs[] = {0, kSlotGpa / kGib};
    for (uint64_t i = 0; i < 2; ++i) {
      Table(1)[gibs[i]] = (tables_gpa() + (2 + i) * kPage) | kTable;
      for (uint64_t j = 0; j < 512; ++j)
        Table(2 + i)[j] = (gibs[i] * kGib + j * kLargePage) | kLeaf;
    }
  }

  const uint64_t data_bytes_;
  void* memory_ = MAP_FAILED;
};

struct Copy {
  uint64_t from, to, bytes;  // guest-physical
};

absl::Status PointAtCode(Vcpu& vcpu, const CopySlot& slot, const Copy& copy) {
  auto state = std::make_unique<VcpuState>();
  absl::Status status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  kvm_sregs& sregs = state->sregs;
  sregs.cs = FlatSegment(REHOME_GUEST_KERNEL_CS, true, /*dpl=*/0);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = FlatSegment(0x10, false, /*dpl=*/0);
  sregs.cr0 = kCr0;
  sregs.cr3 = slot.tables_gpa();
  sregs.cr4 = kCr4PhysicalAddressExtension;
  sregs.efer = kEferLongMode;
  state->regs = {};
  state->regs.rip = slot.code_gpa();
  state->regs.rflags = kRflags;
  state->regs.rsi = copy.from;
  state->regs.rdi = copy.to;
  state->regs.rcx = copy.bytes / sizeof(uint64_t);
  state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
  return vcpu.RestoreState(*state);
}

absl::Status RunCopy(Vcpu& vcpu) {
  vcpu.ClearImmediateExit();
  for (int run = 0; run < kMaxRuns; ++run) {
    const absl::StatusOr<VcpuExit> exit = vcpu.Run();
    if (!exit.ok()) return exit.status();
    if (*exit == VcpuExit::kInterrupted) continue;
    const bool copied =
        *exit == VcpuExit::kIo && vcpu.io().is_out && vcpu.io().port == REHOME_GUEST_EXIT_PORT;
    if (copied) return vcpu.CompletePendingIo();
    break;
  }
  return MakeStatus(absl::StatusCode::kInternal, "PRIVATE_COPY_FAILED",
                    absl::StrCat("instead of copying, the vCPU said: ", vcpu.DescribeExit()));
}

absl::Status RunIn(Vm& vm, Vcpu& vcpu, uint32_t number, const CopySlot& slot, const Copy& copy) {
  Memslot memslot;
  memslot.slot = number;
  memslot.gpa = kSlotGpa;
  memslot.size_bytes = slot.size();
  memslot.hva = slot.hva();
  absl::Status status = vm.SetMemslot(memslot, BorrowedFd());
  if (!status.ok()) return status;
  status = PointAtCode(vcpu, slot, copy);
  if (status.ok()) status = RunCopy(vcpu);
  const absl::Status deleted = vm.DeleteMemslot(number, 0);
  return status.ok() ? deleted : status;
}

}  // namespace

absl::Status CopyIntoPrivate(Vm& vm, Vcpu& vcpu, uint32_t slot, std::span<const std::byte> image) {
  CopySlot shared(image.size());
  absl::Status status = shared.Map();
  if (!status.ok()) return status;
  std::copy(image.begin(), image.end(), shared.data().begin());
  return RunIn(vm, vcpu, slot, shared, {.from = kSlotGpa, .to = 0, .bytes = image.size()});
}

absl::Status CopyOutOfPrivate(Vm& vm, Vcpu& vcpu, uint32_t slot, std::span<std::byte> out) {
  CopySlot shared(out.size());
  absl::Status status = shared.Map();
  if (!status.ok()) return status;
  status = RunIn(vm, vcpu, slot, shared, {.from = 0, .to = kSlotGpa, .bytes = out.size()});
  if (status.ok()) std::copy(shared.data().begin(), shared.data().end(), out.begin());
  return status;
}

}  // namespace rehome
