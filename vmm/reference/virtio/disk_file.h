// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_VIRTIO_DISK_FILE_H_
#define REHOME_VMM_REFERENCE_VIRTIO_DISK_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::virtio {

inline constexpr uint64_t kSectorBytes = 512;

// A disk's file, locked: a write lock, or for a read-only disk a read lock, of the whole file. It
// is an OFD lock, so it belongs to the open file description (fcntl(2)): it goes with the
// descriptor to the next VMM, both hold it while both have the descriptor, and it ends with the
// last of them. It keeps VMMs from each other, not other programs from the file.
struct DiskFile {
  UniqueFd fd;
  uint64_t sectors = 0;
  bool read_only = false;
};

// Opens and locks `path`. FAILED_PRECONDITION / DISK_LOCKED if somebody else has it, or
// DISK_UNLOCKABLE if its file system has no lock to give: without one it is not used.
// INVALID_ARGUMENT / DISK_INVALID if it is neither a regular file nor a block device, is empty, or
// is not whole sectors; OS_CALL_FAILED.
absl::StatusOr<DiskFile> OpenDisk(const std::string& path, bool read_only);

// The same for a descriptor that another VMM opened; DISK_INVALID also if it is not open as
// OpenDisk() opens it for `read_only`: a target refuses a disk that is not what its source says it
// is. Locking again what this description has locked already succeeds.
absl::StatusOr<DiskFile> AdoptDisk(UniqueFd fd, bool read_only);

// What errno `error` of locking the disk `name` means: DISK_LOCKED or DISK_UNLOCKABLE, which says
// errno. Apart from the call because the second takes a file system that few machines have.
absl::Status LockRefused(std::string_view name, bool read_only, int error);

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_DISK_FILE_H_
