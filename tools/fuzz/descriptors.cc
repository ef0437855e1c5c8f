// SPDX-License-Identifier: Apache-2.0
#include "tools/fuzz/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

UniqueFd Checked(int raw) {
  REHOME_PROMISE(raw >= 0);
  return UniqueFd(raw);
}

UniqueFd Memfd(size_t bytes, int seals) {
  UniqueFd fd = Checked(memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REHOME_PROMISE(ftruncate(fd.borrow().raw(), static_cast<off_t>(bytes)) == 0);
  REHOME_PROMISE(seals == 0 || fcntl(fd.borrow().raw(), F_ADD_SEALS, seals) == 0);
  return fd;
}

UniqueFd OneEnd(int result, const int (&ends)[2]) {
  REHOME_PROMISE(result == 0);
  close(ends[1]);
  return UniqueFd(ends[0]);
}

}  // namespace

UniqueFd OpenKind(uint8_t kind) {
  static const UniqueFd memory = Memfd(kMemoryBytes, 0);
  static const UniqueFd other = Memfd(kMemoryBytes, 0);
  int ends[2] = {-1, -1};
  switch (static_cast<FdKind>(kind % static_cast<uint8_t>(FdKind::kCount))) {
    case FdKind::kMemory:
      return Duplicate(memory.borrow()).value();
    case FdKind::kOtherMemory:
      return Duplicate(other.borrow()).value();
    case FdKind::kSealedConfig:
      return Memfd(64, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    case FdKind::kDevNull:
      return Checked(open("/dev/null", O_RDWR | O_CLOEXEC));
    case FdKind::kDirectory:
      return Checked(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    case FdKind::kPipe:
      return OneEnd(pipe2(ends, O_CLOEXEC), ends);
    case FdKind::kSocket:
      return OneEnd(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), ends);
    case FdKind::kEventFd:
      return Checked(eventfd(0, EFD_CLOEXEC));
    case FdKind::kOwnPidfd:
      return Checked(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    case FdKind::kEmptyMemfd:
    case FdKind::kCount:
      break;
  }
  return Memfd(0, 0);
}

size_t CountOpenFds() {
  // The first OpenKind() keeps its two files open for good.
  (void)OpenKind(0);
  size_t count = 0;
  DIR* directory = opendir("/proc/self/fd");
  REHOME_PROMISE(directory != nullptr);
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

bool SendAnything(BorrowedFd socket, const std::vector<std::byte>& bytes,
                  const std::vector<UniqueFd>& fds) {
  // As many as the kernel takes: SCM_MAX_FD of include/net/scm.h.
  constexpr size_t kMaxFds = 253;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))] = {};
  REHOME_PROMISE(fds.size() <= kMaxFds);
  iovec data = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (size_t i = 0; i < fds.size(); ++i) {
      const int raw = fds[i].borrow().raw();
      std::memcpy(CMSG_DATA(header) + i * sizeof(raw), &raw, sizeof(raw));
    }
  }
  return sendmsg(socket.raw(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

}  // namespace rehome::fuzz
