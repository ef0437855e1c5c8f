// SPDX-License-Identifier: Apache-2.0
//
// VerifyMappings() of daemon/fence.h.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/fence.h"
#include "daemon/proc_files.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status Mismatch(const Memslot& slot, std::string_view what) {
  return MakeStatus(
      absl::StatusCode::kFailedPrecondition, reason::kMappingMismatch,
      absl::StrCat("slot ", slot.slot, " at hva 0x", absl::Hex(slot.hva), ": ").append(what));
}

// How far a slot has been found mapped as it should be.
struct Progress {
  const Memslot* slot;
  uint64_t next;  // first address not yet seen
  uint64_t end;
  bool done() const { return next == end; }
};

absl::StatusOr<std::vector<Progress>> Begin(const MemoryLayout& layout) {
  std::vector<Progress> slots;
  for (const Memslot& slot : layout.slots) {
    if (slot.hva == 0) return Mismatch(slot, "is not mapped");
    if (slot.size_bytes > UINT64_MAX - slot.hva) return Mismatch(slot, "ends beyond 64 bits");
    slots.push_back({.slot = &slot, .next = slot.hva, .end = slot.hva + slot.size_bytes});
  }
  return slots;
}

// Mappings come in the order of their addresses, so one that does not contain `next` says nothing:
// it is before it, or leaves a gap that nothing fills.
absl::Status Advance(const Mapping& mapping, Progress& progress) {
  if (progress.done() || progress.next < mapping.begin || progress.next >= mapping.end) {
    return absl::OkStatus();
  }
  const Memslot& slot = *progress.slot;
  const std::string where = absl::StrCat("the mapping at 0x", absl::Hex(mapping.begin));
  if (mapping.inode != slot.inode) return Mismatch(slot, where + " is of another file");
  if (!mapping.shared) return Mismatch(slot, where + " is private");
  if (mapping.offset + (progress.next - mapping.begin) !=
      slot.offset + (progress.next - slot.hva)) {
    return Mismatch(slot, where + " is of another place in the file");
  }
  progress.next = std::min(mapping.end, progress.end);
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyMappings(BorrowedFd pidfd, const MemoryLayout& layout) {
  absl::StatusOr<int32_t> pid = PidOf(pidfd);
  if (!pid.ok()) return pid.status();
  absl::StatusOr<std::vector<Progress>> slots = Begin(layout);
  if (!slots.ok()) return slots.status();
  absl::Status mismatch;
  absl::Status read = ForEachMapping(ProcPath(*pid) + "/maps", [&](const Mapping& mapping) {
    for (Progress& progress : *slots) {
      mismatch = Advance(mapping, progress);
      if (!mismatch.ok()) return false;
    }
    return true;
  });
  if (!read.ok()) return read;
  // Not reaped yet, so what was read was this process's (see IdentifyProcess()).
  if (absl::StatusOr<int32_t> again = PidOf(pidfd); !again.ok()) return again.status();
  if (!mismatch.ok()) return mismatch;
  for (const Progress& progress : *slots) {
    if (progress.done()) continue;
    return Mismatch(*progress.slot,
                    absl::StrCat("nothing is mapped at 0x", absl::Hex(progress.next)));
  }
  return absl::OkStatus();
}

}  // namespace rehome
