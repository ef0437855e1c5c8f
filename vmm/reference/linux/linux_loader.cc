// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/linux_loader.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "vmm/reference/linux/bzimage.h"
#include "vmm/reference/linux/mp_table.h"
#include "vmm/reference/segment.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kGdt = 0x1000;
constexpr uint64_t kBootParams = 0x7000;
constexpr uint64_t kPageTables = 0x9000;
constexpr uint64_t kCmdline = 0x20000;
constexpr uint64_t kLowEnd = 0x9fc00;  // conventional memory, as a BIOS leaves it
constexpr uint64_t kVideo = 0xa0000;
constexpr uint64_t kFirstMib = 1 << 20;
constexpr off_t kMaxFileBytes = 1 << 30;

// The selectors that the protocol asks for, and their descriptors (Intel SDM 3A, 3.4.5).
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint64_t kCodeDescriptor = 0x00af9b000000ffff;
constexpr uint64_t kDataDescriptor = 0x00cf93000000ffff;
constexpr uint16_t kGdtLimit = 4 * 8 - 1;

// Page tables: present, writable; leaves of 2 MiB.
constexpr uint64_t kTable = 0x3;
constexpr uint64_t kLeaf = 0x83;
constexpr uint64_t kLargePage = 2 << 20;
constexpr uint64_t kMappedGib = 4;
constexpr size_t kEntriesPerTable = 512;

constexpr uint64_t kCr0 = 0x80000011;  // PG ET PE
constexpr uint64_t kCr4 = 0x20;        // PAE
constexpr uint64_t kEfer = 0x500;      // LME LMA
constexpr uint64_t kRflags = 0x2;      // no interrupts

// e820 types.
constexpr uint32_t kRam = 1;
constexpr uint32_t kReserved = 2;
constexpr uint8_t kUndefinedLoader = 0xff;

absl::Status TooSmall(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "GUEST_MEMORY_TOO_SMALL", what);
}

absl::Status Unreadable(const std::string& path, std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "GUEST_IMAGE_UNREADABLE",
                    absl::StrCat(path, ": ", std::string(what)));
}

// Where everything goes that has no fixed place.
struct Plan {
  BzImage image;
  uint64_t initramfs = 0;
};

absl::StatusOr<Plan> MakePlan(const LinuxBoot& boot, uint64_t low_ram_bytes) {
  auto image = ParseBzImage(boot.image);
  if (!image.ok()) return image.status();
  Plan plan = {.image = *image};
  const uint32_t cmdline_max = std::min<uint32_t>(image->header.cmdline_size, kLowEnd - kCmdline);
  if (boot.cmdline.size() > cmdline_max) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "GUEST_CMDLINE_TOO_LONG",
                      absl::StrCat("a command line of ", boot.cmdline.size(),
                                   " bytes; this kernel takes ", cmdline_max));
  }
  const uint64_t kernel_end = image->load_address + image->memory_bytes;
  const uint64_t initramfs_bytes = boot.initramfs.size();
  const uint64_t end =
      std::min<uint64_t>(low_ram_bytes, uint64_t{image->header.initrd_addr_max} + 1);
  if (kernel_end > low_ram_bytes || kernel_end > end || initramfs_bytes > end - kernel_end ||
      end - initramfs_bytes < kernel_end + kPage) {
    return TooSmall(absl::StrCat("kernel and initramfs need ", kernel_end + initramfs_bytes + kPage,
                                 " bytes of RAM"));
  }
  plan.initramfs = (end - initramfs_bytes) & ~(kPage - 1);
  return plan;
}

// RAM from 0 on, which holds all that is loaded.
class LowRam {
 public:
  explicit LowRam(std::span<std::byte> bytes) : bytes_(bytes) {}

  void Put(uint64_t gpa, std::span<const std::byte> content) {
    if (!content.empty()) std::memcpy(bytes_.data() + gpa, content.data(), content.size());
  }
  template <typename T>
  void PutObject(uint64_t gpa, const T& object) {
    Put(gpa, std::as_bytes(std::span<const T>(&object, 1)));
  }

 private:
  std::span<std::byte> bytes_;
};

void PutDescriptors(LowRam& ram) {
  ram.PutObject(kGdt + kCodeSelector, kCodeDescriptor);
  ram.PutObject(kGdt + kDataSelector, kDataDescriptor);
}

void PutPageTables(LowRam& ram) {
  const uint64_t pointers = kPageTables + kPage;
  ram.PutObject(kPageTables, pointers | kTable);
  for (uint64_t gib = 0; gib < kMappedGib; ++gib) {
    const uint64_t directory = pointers + (gib + 1) * kPage;
    ram.PutObject(pointers + gib * sizeof(uint64_t), directory | kTable);
    for (uint64_t i = 0; i < kEntriesPerTable; ++i) {
      const uint64_t address = (gib * kEntriesPerTable + i) * kLargePage;
      ram.PutObject(directory + i * sizeof(uint64_t), address | kLeaf);
    }
  }
}

void AddE820(boot_params& params, uint64_t start, uint64_t end, uint32_t type) {
  if (start >= end || params.e820_entries == E820_MAX_ENTRIES_ZEROPAGE) return;
  boot_e820_entry& entry = params.e820_table[params.e820_entries++];
  entry.addr = start;
  entry.size = end - start;
  entry.type = type;
}

boot_params MakeBootParams(const LinuxBoot& boot, const Plan& plan,
                           std::span<const MappedRange> ram) {
  boot_params params = {};
  params.hdr = plan.image.header;
  params.hdr.type_of_loader = kUndefinedLoader;
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(kCmdline);
  params.hdr.ramdisk_image = static_cast<uint32_t>(plan.initramfs);
  params.hdr.ramdisk_size = static_cast<uint32_t>(boot.initramfs.size());
  if (boot.initramfs.empty()) params.hdr.ramdisk_image = 0;
  AddE820(params, 0, kLowEnd, kRam);
  AddE820(params, kLowEnd, kVideo, kReserved);
  AddE820(params, kMpTableAddress, kFirstMib, kReserved);
  for (const MappedRange& range : ram) {
    AddE820(params, std::max(range.gpa, kFirstMib), range.gpa + range.bytes.size(), kRam);
  }
  return params;
}

void SetSregs(kvm_sregs& sregs) {
  sregs.cs = FlatSegment(kCodeSelector, true, /*dpl=*/0);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
      FlatSegment(kDataSelector, false, /*dpl=*/0);
  sregs.tr = {};
  sregs.tr.limit = 0x67;
  sregs.tr.type = 11;  // busy 64-bit TSS
  sregs.tr.present = 1;
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt = {.base = kGdt, .limit = kGdtLimit};
  sregs.idt = {};
  sregs.cr0 = kCr0;
  sregs.cr3 = kPageTables;
  sregs.cr4 = kCr4;
  sregs.efer = kEfer;
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> ReadGuestImage(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat file = {};
  if (!fd.valid() || fstat(fd.borrow().raw(), &file) < 0) {
    return Unreadable(path, strerrordesc_np(errno));
  }
  if (!S_ISREG(file.st_mode) || file.st_size > kMaxFileBytes) {
    return Unreadable(path, "not a file of at most 1 GiB");
  }
  std::vector<std::byte> bytes(static_cast<size_t>(file.st_size));
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t count = read(fd.borrow().raw(), bytes.data() + at, bytes.size() - at);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Unreadable(path, count < 0 ? strerrordesc_np(errno) : "it got shorter");
    at += static_cast<size_t>(count);
  }
  return bytes;
}

absl::Status CheckLinux(const LinuxBoot& boot, uint64_t ram_bytes) {
  return MakePlan(boot, ram_bytes).status();
}

absl::StatusOr<uint64_t> LoadLinux(const LinuxBoot& boot, std::span<const MappedRange> ram) {
  const auto plan = MakePlan(boot, ram.front().bytes.size());
  if (!plan.ok()) return plan.status();
  LowRam low(ram.front().bytes);
  low.Put(plan->image.load_address, plan->image.kernel);
  low.Put(plan->initramfs, boot.initramfs);
  low.Put(kCmdline, std::as_bytes(std::span(boot.cmdline)));
  low.Put(kMpTableAddress, MakeMpTable(boot.vcpu_count));
  low.PutObject(kBootParams, MakeBootParams(boot, *plan, ram));
  PutDescriptors(low);
  PutPageTables(low);
  return plan->image.load_address + kEntry64Offset;
}

absl::Status StartLinuxVcpu(uint64_t entry, Vcpu& boot_processor) {
  auto state = std::make_unique<VcpuState>();
  absl::Status status = boot_processor.SaveState(*state);
  if (!status.ok()) return status;
  SetSregs(state->sregs);
  state->regs = {};
  state->regs.rip = entry;
  state->regs.rsi = kBootParams;
  state->regs.rflags = kRflags;
  state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
  return boot_processor.RestoreState(*state);
}

}  // namespace rehome
