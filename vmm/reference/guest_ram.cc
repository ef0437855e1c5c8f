// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_ram.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/os_status.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = 4096;
// Residency is asked for in pieces of this size: one byte of answer per page.
constexpr uint64_t kResidencyPiece = 64 << 20;

absl::Status LayoutInvalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "LAYOUT_INVALID", what);
}

absl::StatusOr<UniqueFd> NewMemfd(uint64_t size, uint32_t index) {
  UniqueFd fd(memfd_create(absl::StrCat("rehome-memory-", index).c_str(), MFD_CLOEXEC));
  if (!fd.valid()) return OsError("memfd_create", "guest memory", errno);
  if (ftruncate(fd.borrow().raw(), static_cast<off_t>(size)) < 0) {
    return OsError("ftruncate", "guest memory", errno);
  }
  return fd;
}

// Whether each slot lies in a file that is there, and all of them are the whole RAM.
absl::Status CheckSlots(const std::vector<RamSlot>& slots, const std::vector<uint64_t>& file_sizes,
                        uint64_t ram_bytes) {
  MemoryLayout layout;
  for (const RamSlot& slot : slots) layout.slots.push_back(slot.slot);
  absl::Status status = ValidateLayout(layout);
  if (!status.ok()) return status;
  for (const RamSlot& slot : slots) {
    const uint64_t file = slot.memory_index < file_sizes.size() ? file_sizes[slot.memory_index] : 0;
    if (slot.slot.offset > file || slot.slot.size_bytes > file - slot.slot.offset) {
      return LayoutInvalid(absl::StrCat("slot ", slot.slot.slot, " is not in a memory file"));
    }
  }
  if (layout.TotalBytes() != ram_bytes) {
    return LayoutInvalid(absl::StrCat("slots hold ", layout.TotalBytes(), " bytes of ", ram_bytes));
  }
  return absl::OkStatus();
}

// Visits the runs of resident pages of one piece; returns the bytes.
absl::StatusOr<uint64_t> VisitPiece(std::span<std::byte> piece, uint64_t gpa,
                                    std::vector<unsigned char>& resident,
                                    const GuestRam::ResidentVisitor& visit) {
  const uint64_t pages = piece.size() / kPage;
  if (mincore(piece.data(), piece.size(), resident.data()) < 0) {
    return OsError("mincore", "guest memory", errno);
  }
  uint64_t done = 0;
  for (uint64_t first = 0; first < pages;) {
    uint64_t end = first;
    while (end < pages && (resident[end] & 1) != 0) ++end;
    if (end > first) {
      const uint64_t bytes = (end - first) * kPage;
      absl::Status status = visit(gpa + first * kPage, piece.subspan(first * kPage, bytes));
      if (!status.ok()) return status;
      done += bytes;
    }
    first = std::max(end, first + 1);
  }
  return done;
}

}  // namespace

std::vector<RamSlot> PlanSlots(uint64_t ram_bytes, uint32_t files) {
  const uint64_t file_size = ram_bytes / files;
  std::vector<RamSlot> slots;
  for (uint64_t offset = 0; offset < ram_bytes;) {
    const auto file = static_cast<uint32_t>(offset / file_size);
    uint64_t end = (file + 1) * file_size;
    const bool below_hole = offset < REHOME_GUEST_HOLE_START;
    if (below_hole) end = std::min<uint64_t>(end, REHOME_GUEST_HOLE_START);
    RamSlot slot;
    slot.memory_index = file;
    slot.slot.slot = static_cast<uint32_t>(slots.size());
    slot.slot.gpa = below_hole ? offset : offset - REHOME_GUEST_HOLE_START + REHOME_GUEST_HOLE_END;
    slot.slot.size_bytes = end - offset;
    slot.slot.offset = offset - file * file_size;
    slots.push_back(slot);
    offset = end;
  }
  return slots;
}

absl::StatusOr<RamPlan> PlanRam(VmType type, MemoryKind kind) {
  const RamPlan shared_guest_memfd = {RamAccess::kBoundAndMapped, true,
                                      kGuestMemfdMmap | kGuestMemfdInitShared};
  const RamPlan private_guest_memfd = {RamAccess::kBound, true, 0};
  const RamPlan memfd = {RamAccess::kMapped, false, 0};
  const absl::Status unsupported =
      MakeStatus(absl::StatusCode::kInvalidArgument, "MEMORY_KIND_UNSUPPORTED",
                 absl::StrCat("a VM of type ", std::string(VmTypeName(type)),
                              " cannot have its memory there"));
  switch (type) {
    case VmType::kDefault:
      return kind == MemoryKind::kMemfd ? memfd : shared_guest_memfd;
    case VmType::kSev:
    case VmType::kSevEs:
      if (kind == MemoryKind::kGuestMemfd) return unsupported;
      return memfd;
    case VmType::kSwProtected:
    case VmType::kSnp:
    case VmType::kTdx:
      if (kind == MemoryKind::kMemfd) return unsupported;
      return private_guest_memfd;
  }
  return unsupported;
}

GuestRam::GuestRam(RamAccess access, uint64_t size_bytes)
    : access_(access), size_bytes_(size_bytes) {}

GuestRam::~GuestRam() {
  for (const File& file : files_) {
    if (file.mapping != nullptr) munmap(file.mapping, file.size);
    if (file.reservation != nullptr) munmap(file.reservation, file.size);
    if (file.check != nullptr) munmap(const_cast<std::byte*>(file.check), file.size);
  }
}

absl::Status GuestRam::AddFile(KvmSyscalls& kernel, UniqueFd fd) {
  const auto identity = Identify(fd.borrow());
  if (!identity.ok()) return identity.status();
  files_.push_back({.fd = std::move(fd), .size = identity->size_bytes, .inode = identity->id});
  File& file = files_.back();
  void* address = nullptr;
  if (mapped()) {
    const SysResult result = kernel.MapShared(file.fd.borrow(), file.size, 0, &address);
    if (!result.ok()) return OsError("mmap", "guest memory", result.error);
    file.mapping = static_cast<std::byte*>(address);
    return absl::OkStatus();
  }
  address = mmap(nullptr, file.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return OsError("mmap", "addresses for guest memory", errno);
  file.reservation = static_cast<std::byte*>(address);
  return absl::OkStatus();
}

void GuestRam::Place(std::vector<RamSlot> slots) {
  slots_ = std::move(slots);
  for (RamSlot& slot : slots_) {
    const File& file = files_[slot.memory_index];
    slot.slot.inode = file.inode;
    slot.slot.flags = access_ == RamAccess::kMapped ? 0 : kMemslotGuestMemfd;
    slot.slot.hva = mapped() ? reinterpret_cast<uint64_t>(file.mapping) + slot.slot.offset : 0;
  }
}

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::Create(KvmSyscalls& kernel, Vm& vm,
                                                           const RamPlan& plan, uint64_t ram_bytes,
                                                           uint32_t files) {
  std::unique_ptr<GuestRam> ram(new GuestRam(plan.access, ram_bytes));
  for (uint32_t i = 0; i < files; ++i) {
    auto fd = plan.guest_memfd ? vm.CreateGuestMemfd(ram_bytes / files, plan.guest_memfd_flags)
                               : NewMemfd(ram_bytes / files, i);
    if (!fd.ok()) return fd.status();
    absl::Status status = ram->AddFile(kernel, *std::move(fd));
    if (!status.ok()) return status;
  }
  ram->Place(PlanSlots(ram_bytes, files));
  return ram;
}

absl::StatusOr<std::unique_ptr<GuestRam>> GuestRam::TakeOver(KvmSyscalls& kernel, Vm& vm,
                                                             RamAccess access,
                                                             std::vector<RamSlot> slots,
                                                             std::vector<UniqueFd> files,
                                                             uint64_t ram_bytes) {
  std::vector<uint64_t> sizes;
  for (const UniqueFd& file : files) {
    const auto identity = Identify(file.borrow());
    if (!identity.ok()) return identity.status();
    sizes.push_back(identity->size_bytes);
  }
  absl::Status status = CheckSlots(slots, sizes, ram_bytes);
  if (!status.ok()) return status;

  std::unique_ptr<GuestRam> ram(new GuestRam(access, ram_bytes));
  for (UniqueFd& file : files) {
    if (access != RamAccess::kMapped) {
      auto linked = vm.LinkGuestMemfd(file.borrow());
      if (!linked.ok()) return linked.status();
      file = *std::move(linked);
    }
    status = ram->AddFile(kernel, std::move(file));
    if (!status.ok()) return status;
  }
  ram->Place(std::move(slots));
  return ram;
}

absl::Status GuestRam::Bind(Vm& vm) const {
  for (const RamSlot& slot : slots_) {
    const File& file = files_[slot.memory_index];
    Memslot memslot = slot.slot;
    if (!mapped()) {
      memslot.hva = reinterpret_cast<uint64_t>(file.reservation) + memslot.offset;
    }
    const bool bound = access_ != RamAccess::kMapped;
    absl::Status status = vm.SetMemslot(memslot, bound ? file.fd.borrow() : BorrowedFd());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::span<std::byte> GuestRam::mapping(size_t i) const {
  if (files_[i].mapping == nullptr) return {};
  return {files_[i].mapping, files_[i].size};
}

absl::StatusOr<uint64_t> GuestRam::VisitResident(uint64_t limit_bytes,
                                                 const ResidentVisitor& visit) const {
  std::vector<unsigned char> resident(kResidencyPiece / kPage);
  uint64_t done = 0;
  for (const RamSlot& slot : slots_) {
    const std::span<std::byte> memory =
        mapping(slot.memory_index).subspan(slot.slot.offset, slot.slot.size_bytes);
    for (uint64_t at = 0; at < memory.size() && done < limit_bytes; at += kResidencyPiece) {
      const auto piece = memory.subspan(at, std::min(kResidencyPiece, memory.size() - at));
      const auto bytes = VisitPiece(piece, slot.slot.gpa + at, resident, visit);
      if (!bytes.ok()) return bytes.status();
      done += *bytes;
    }
  }
  return done;
}

absl::StatusOr<uint64_t> GuestRam::Populate(uint64_t limit_bytes) const {
  return VisitResident(limit_bytes, [](uint64_t, std::span<std::byte> run) {
    return madvise(run.data(), run.size(), MADV_POPULATE_READ) == 0
               ? absl::OkStatus()
               : OsError("madvise(MADV_POPULATE_READ)", "guest memory", errno);
  });
}

absl::StatusOr<std::unique_ptr<GuestMemoryReader>> GuestRam::OpenForCheck() {
  std::vector<std::span<const std::byte>> views;
  for (File& file : files_) {
    if (file.mapping == nullptr && file.check == nullptr) {
      void* address = mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.fd.borrow().raw(), 0);
      if (address == MAP_FAILED) {
        return MakeStatus(absl::StatusCode::kFailedPrecondition, "MEMORY_PRIVATE",
                          "the guest's memory cannot be read from outside");
      }
      file.check = static_cast<const std::byte*>(address);
    }
    views.emplace_back(file.mapping != nullptr ? file.mapping : file.check, file.size);
  }
  return std::make_unique<MappedGuestMemory>(std::move(views));
}

}  // namespace rehome
