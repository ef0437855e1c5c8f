// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/private_loader.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/os_status.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = REHOME_GUEST_PAGE;
constexpr uint64_t kGib = 1 << 30;
constexpr uint64_t kLargePage = 2 << 20;
// The loader's memslot is in the hole, so that it is nowhere in the guest's RAM: the image, then
// tables that map the first GiB and the hole's, then the code.
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

// The loader's memory, here and in the VM.
class LoaderSlot {
 public:
  explicit LoaderSlot(uint64_t image_bytes) : image_bytes_(image_bytes) {}
  ~LoaderSlot() {
    if (memory_ != MAP_FAILED) munmap(memory_, size());
  }
  LoaderSlot(const LoaderSlot&) = delete;
  LoaderSlot& operator=(const LoaderSlot&) = delete;

  absl::Status Fill(std::span<const std::byte> image) {
    memory_ = mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) return OsError("mmap", "the loader's memory", errno);
    auto* bytes = static_cast<std::byte*>(memory_);
    std::memcpy(bytes, image.data(), image.size());
    std::memcpy(bytes + (code_gpa() - kSlotGpa), kCode, sizeof(kCode));
    WriteTables();
    return absl::OkStatus();
  }

  uint64_t size() const { return image_bytes_ + kExtraPages * kPage; }
  uint64_t hva() const { return reinterpret_cast<uint64_t>(memory_); }
  uint64_t tables_gpa() const { return kSlotGpa + image_bytes_; }
  uint64_t code_gpa() const { return tables_gpa() + kTables * kPage; }

 private:
  uint64_t* Table(uint64_t number) {
    return reinterpret_cast<uint64_t*>(static_cast<std::byte*>(memory_) + image_bytes_ +
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

  const uint64_t image_bytes_;
  void* memory_ = MAP_FAILED;
};

kvm_segment KernelSegment(uint16_t selector, bool code) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xffffffff;
  segment.type = code ? 11 : 3;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

absl::Status PointAtCode(Vcpu& vcpu, const LoaderSlot& loader, uint64_t image_bytes) {
  auto state = std::make_unique<VcpuState>();
  absl::Status status = vcpu.SaveState(*state);
  if (!status.ok()) return status;
  kvm_sregs& sregs = state->sregs;
  sregs.cs = KernelSegment(REHOME_GUEST_KERNEL_CS, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = KernelSegment(0x10, false);
  sregs.cr0 = kCr0;
  sregs.cr3 = loader.tables_gpa();
  sregs.cr4 = kCr4PhysicalAddressExtension;
  sregs.efer = kEferLongMode;
  state->regs = {};
  state->regs.rip = loader.code_gpa();
  state->regs.rflags = kRflags;
  state->regs.rsi = kSlotGpa;
  state->regs.rdi = 0;
  state->regs.rcx = image_bytes / sizeof(uint64_t);
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
  return MakeStatus(absl::StatusCode::kInternal, "GUEST_UNLOADABLE",
                    absl::StrCat("copying into private memory: ", vcpu.DescribeExit()));
}

}  // namespace

absl::Status LoadPrivateMemory(Vm& vm, Vcpu& vcpu, uint32_t slot,
                               std::span<const std::byte> image) {
  LoaderSlot loader(image.size());
  absl::Status status = loader.Fill(image);
  if (!status.ok()) return status;
  Memslot memslot;
  memslot.slot = slot;
  memslot.gpa = kSlotGpa;
  memslot.size_bytes = loader.size();
  memslot.hva = loader.hva();
  status = vm.SetMemslot(memslot, BorrowedFd());
  if (!status.ok()) return status;
  status = PointAtCode(vcpu, loader, image.size());
  if (status.ok()) status = RunCopy(vcpu);
  const absl::Status deleted = vm.DeleteMemslot(slot, 0);
  return status.ok() ? deleted : status;
}

}  // namespace rehome
