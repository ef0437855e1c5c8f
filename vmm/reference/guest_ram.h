// SPDX-License-Identifier: Apache-2.0
//
// The guest's RAM: one or several files, and the memslots that put them at guest-physical
// addresses. RAM is one range of offsets, cut into files of equal size, with a hole at 3 GiB
// (guest_abi.h).
#ifndef REHOME_VMM_REFERENCE_GUEST_RAM_H_
#define REHOME_VMM_REFERENCE_GUEST_RAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/memory_layout.h"
#include "kvmglue/vm.h"
#include "vmm/reference/guest_memory_reader.h"
#include "vmm/reference/options.h"

namespace rehome {

// How a VM uses its memory files.
enum class RamAccess : uint8_t {
  kMapped,          // mmap(2), ordinary slots
  kBoundAndMapped,  // guest_memfd slots, and mapped for us as well: shared memory of a default VM
  kBound,           // guest_memfd slots, nothing mapped: private memory
};

// One memslot. slot.hva is our mapping, or 0 if there is none.
struct RamSlot {
  Memslot slot;
  uint32_t memory_index = 0;  // which file
  friend bool operator==(const RamSlot&, const RamSlot&) = default;
};

// The slots of `ram_bytes` of RAM in `files` files of equal size, without inode and hva.
// REQUIRES: ram_bytes is a multiple of files * 4096.
std::vector<RamSlot> PlanSlots(uint64_t ram_bytes, uint32_t files);

// What memory of that kind is used for in a VM of that type. kAuto takes what the type needs:
// guest_memfd, but a memfd for SEV and SEV-ES, whose memory is mapped. INVALID_ARGUMENT /
// MEMORY_KIND_UNSUPPORTED for any other combination.
struct RamPlan {
  RamAccess access = RamAccess::kMapped;
  bool guest_memfd = false;
  uint64_t guest_memfd_flags = 0;
};
absl::StatusOr<RamPlan> PlanRam(VmType type, MemoryKind kind);

// Owns the files and mappings. Constant after construction.
class GuestRam {
 public:
  // New memory for a VM that starts here.
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(KvmSyscalls& kernel, Vm& vm,
                                                          const RamPlan& plan, uint64_t ram_bytes,
                                                          uint32_t files);

  // Memory of another VMM. With kBound and kBoundAndMapped each file is linked into `vm` first.
  // `slots` come from outside: INVALID_ARGUMENT / LAYOUT_INVALID if they are not well-formed, name
  // a file that is not there, reach beyond one, or do not add up to `ram_bytes`. Errors of
  // Vm::LinkGuestMemfd() and mmap(2) besides. kBound touches nothing of the memory.
  static absl::StatusOr<std::unique_ptr<GuestRam>> TakeOver(KvmSyscalls& kernel, Vm& vm,
                                                            RamAccess access,
                                                            std::vector<RamSlot> slots,
                                                            std::vector<UniqueFd> files,
                                                            uint64_t ram_bytes);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  // Puts every slot into the VM. Errors of Vm::SetMemslot().
  absl::Status Bind(Vm& vm) const;

  uint64_t size_bytes() const { return size_bytes_; }
  const std::vector<RamSlot>& slots() const { return slots_; }
  size_t file_count() const { return files_.size(); }
  BorrowedFd file(size_t i) const { return files_[i].fd.borrow(); }

  bool mapped() const { return access_ != RamAccess::kBound; }
  // All of file `i`; empty unless mapped().
  std::span<std::byte> mapping(size_t i) const;

  // Calls `visit` for each run of pages that the files hold already, at most `limit_bytes` in all,
  // with the run's guest-physical address and where it is mapped here. Returns the bytes visited,
  // or the first error of `visit`. REQUIRES: mapped().
  using ResidentVisitor = std::function<absl::Status(uint64_t gpa, std::span<std::byte> run)>;
  absl::StatusOr<uint64_t> VisitResident(uint64_t limit_bytes, const ResidentVisitor& visit) const;

  // Makes host page tables for what the files hold already, up to `limit_bytes`, so that the guest
  // does not take these faults one by one after a take-over (4 to 6 times cheaper under shadow
  // paging). Never allocates guest memory. Returns the bytes done. REQUIRES: mapped().
  absl::StatusOr<uint64_t> Populate(uint64_t limit_bytes) const;

  // A view for GuestChecker, whatever the VM may map. For private memory this works on the
  // simulated kernel only, whose guest_memfds are memfds underneath; that is a way in for tests,
  // which no real kernel has: FAILED_PRECONDITION / MEMORY_PRIVATE there. Valid as long as this
  // object.
  absl::StatusOr<std::unique_ptr<GuestMemoryReader>> OpenForCheck();

 private:
  struct File {
    UniqueFd fd;
    uint64_t size = 0;
    InodeId inode;
    std::byte* mapping = nullptr;      // of all of it
    std::byte* reservation = nullptr;  // kBound: addresses that KVM wants, with nothing behind
    const std::byte* check = nullptr;  // OpenForCheck() of unmapped memory
  };

  GuestRam(RamAccess access, uint64_t size_bytes);
  absl::Status AddFile(KvmSyscalls& kernel, UniqueFd fd);
  void Place(std::vector<RamSlot> slots);

  const RamAccess access_;
  const uint64_t size_bytes_;
  std::vector<File> files_;
  std::vector<RamSlot> slots_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_RAM_H_
