// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/disk_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"

namespace rehome::virtio {
namespace {

absl::Status Invalid(std::string_view name, std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "DISK_INVALID",
                    std::string(name) + ": " + std::string(what));
}

absl::Status Lock(BorrowedFd fd, std::string_view name, bool read_only) {
  struct flock lock = {};
  lock.l_type = read_only ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;  // from 0, and l_len 0: to the end, wherever that will be
  if (fcntl(fd.raw(), F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  return LockRefused(name, read_only, errno);
}

absl::StatusOr<DiskFile> Use(UniqueFd fd, std::string_view name, bool read_only) {
  struct stat info;
  if (fstat(fd.borrow().raw(), &info) != 0) return OsError("fstat", name, errno);
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return Invalid(name, "neither a regular file nor a block device");
  }
  const int flags = fcntl(fd.borrow().raw(), F_GETFL);
  if (flags < 0) return OsError("fcntl", name, errno);
  // Not more than is needed either: a read lock in the place of the write lock that the same
  // description has on the other side would let others in.
  if ((flags & O_ACCMODE) != (read_only ? O_RDONLY : O_RDWR)) {
    return Invalid(name, read_only ? "not open just for reading, as a read-only disk is"
                                   : "not open for reading and writing");
  }
  if (absl::Status status = Lock(fd.borrow(), name, read_only); !status.ok()) return status;
  // Under the lock, where no other VMM changes it. The position means nothing: all I/O has its own.
  const off_t bytes = lseek(fd.borrow().raw(), 0, SEEK_END);
  if (bytes < 0) return OsError("lseek", name, errno);
  if (bytes == 0) return Invalid(name, "empty");
  if (bytes % static_cast<off_t>(kSectorBytes) != 0) {
    return Invalid(name, absl::StrCat(bytes, " bytes are not whole sectors of ", kSectorBytes));
  }
  return DiskFile{.fd = std::move(fd),
                  .sectors = static_cast<uint64_t>(bytes) / kSectorBytes,
                  .read_only = read_only};
}

}  // namespace

absl::Status LockRefused(std::string_view name, bool read_only, int error) {
  if (error == EAGAIN || error == EACCES) {
    return MakeStatus(
        absl::StatusCode::kFailedPrecondition, "DISK_LOCKED",
        std::string(name) + " is in use: another process holds " +
            (read_only ? "a write lock on it" : "a lock on it, for reading or for writing"));
  }
  // Nobody has it, and nobody can be kept away: ENOLCK of a network file system, EINVAL or
  // EOPNOTSUPP of one that has no locks.
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "DISK_UNLOCKABLE",
                    std::string(name) + " cannot be locked: " + ErrnoText(error));
}

absl::StatusOr<DiskFile> OpenDisk(const std::string& path, bool read_only) {
  // Not blocking: what a path names may be a FIFO, and is looked at only once it is open.
  UniqueFd fd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return OsError("open", path, errno);
  return Use(std::move(fd), path, read_only);
}

absl::StatusOr<DiskFile> AdoptDisk(UniqueFd fd, bool read_only) {
  return Use(std::move(fd), "the disk", read_only);
}

}  // namespace rehome::virtio
