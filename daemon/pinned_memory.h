// SPDX-License-Identifier: Apache-2.0
//
// How many bytes of guest memory this daemon pins: a descriptor that is forgotten keeps the memory
// of a guest that has long ended. Counted by looking, not by bookkeeping, because what is leaked is
// exactly what no books list.
#ifndef REHOME_DAEMON_PINNED_MEMORY_H_
#define REHOME_DAEMON_PINNED_MEMORY_H_

#include <cstdint>
#include <map>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// Whose memory an inode is, by the state of the migration.
enum class MemoryUse : uint8_t {
  kFinished,       // over: nothing of it may be held
  kIndeterminate,  // held, because dropping it could be what loses the guest
  kActive,         // under way
};

// Sizes of the files, each once however many descriptors there are. A sparse file counts whole.
struct PinnedBytes {
  uint64_t active = 0;
  uint64_t finished = 0;  // more than 0 is a leak
  uint64_t indeterminate = 0;
  friend bool operator==(const PinnedBytes&, const PinnedBytes&) = default;
};

// Looks at every descriptor of this process (/proc/self/fd) for the inodes of `guest_memory`.
// Thread-safe; descriptors that come and go meanwhile count or not. Errors as ListNumbers()
// (daemon/proc_files.h).
absl::StatusOr<PinnedBytes> CountPinnedMemory(const std::map<InodeId, MemoryUse>& guest_memory);

}  // namespace rehome

#endif  // REHOME_DAEMON_PINNED_MEMORY_H_
