// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/fd.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/sys_result.h"

namespace rehome {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    Reset();
    raw_ = std::exchange(other.raw_, -1);
  }
  return *this;
}

void UniqueFd::Reset() {
  const int raw = std::exchange(raw_, -1);
  if (raw >= 0) close(raw);
}

absl::StatusOr<UniqueFd> Duplicate(BorrowedFd fd) {
  const SysResult result = CaptureErrno(fcntl(fd.raw(), F_DUPFD_CLOEXEC, 0));
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kDuplicateFd, result.error, absl::StrCat("fd ", fd.raw()));
  }
  return UniqueFd(static_cast<int>(result.value));
}

bool IsSameOpenFile(BorrowedFd a, BorrowedFd b) {
  const pid_t self = getpid();
  return syscall(SYS_kcmp, self, self, KCMP_FILE, a.raw(), b.raw()) == 0;
}

absl::Status SetCloseOnExec(BorrowedFd fd) {
  const SysResult result = CaptureErrno(fcntl(fd.raw(), F_SETFD, FD_CLOEXEC));
  if (result.ok()) return absl::OkStatus();
  return ErrnoStatus(KernelCall::kSetCloseOnExec, result.error, absl::StrCat("fd ", fd.raw()));
}

absl::StatusOr<FileIdentity> Identify(BorrowedFd fd) {
  struct stat info = {};
  const SysResult result = CaptureErrno(fstat(fd.raw(), &info));
  if (!result.ok()) {
    return ErrnoStatus(KernelCall::kStat, result.error, absl::StrCat("fd ", fd.raw()));
  }
  return FileIdentity{.id = {.device = info.st_dev, .inode = info.st_ino},
                      .size_bytes = static_cast<unsigned long long>(info.st_size)};
}

}  // namespace rehome
