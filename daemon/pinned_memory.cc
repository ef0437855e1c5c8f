// SPDX-License-Identifier: Apache-2.0
#include "daemon/pinned_memory.h"

#include <set>
#include <vector>

#include "daemon/proc_files.h"

namespace rehome {
namespace {

void Add(MemoryUse use, uint64_t bytes, PinnedBytes* pinned) {
  switch (use) {
    case MemoryUse::kFinished:
      pinned->finished += bytes;
      return;
    case MemoryUse::kIndeterminate:
      pinned->indeterminate += bytes;
      return;
    case MemoryUse::kActive:
      pinned->active += bytes;
      return;
  }
}

}  // namespace

absl::StatusOr<PinnedBytes> CountPinnedMemory(const std::map<InodeId, MemoryUse>& guest_memory) {
  absl::StatusOr<std::vector<int32_t>> fds = ListNumbers("/proc/self/fd");
  if (!fds.ok()) return fds.status();
  PinnedBytes pinned;
  std::set<InodeId> counted;
  for (const int32_t fd : *fds) {
    const absl::StatusOr<FileIdentity> file = Identify(BorrowedFd(fd));
    if (!file.ok()) continue;  // closed since it was listed
    const auto memory = guest_memory.find(file->id);
    if (memory == guest_memory.end() || !counted.insert(file->id).second) continue;
    Add(memory->second, file->size_bytes, &pinned);
  }
  return pinned;
}

}  // namespace rehome
