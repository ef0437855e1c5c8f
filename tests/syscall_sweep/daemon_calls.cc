// SPDX-License-Identifier: Apache-2.0
#include "tests/syscall_sweep/daemon_calls.h"

#include <cerrno>

namespace rehome {
namespace {

using enum DaemonCall;
using enum HowOften;

// What a Linux says there. EMFILE and ENOMEM: the daemon's table of descriptors is full, the kernel
// has no memory. EACCES, EPERM: a security module. EINTR is what a signal does, and a signal that
// comes for ever is no fault of a call.
constexpr DaemonCallError kErrors[] = {
    {kOpen, EMFILE, kEach},
    {kOpen, EACCES, kOnce},
    {kOpen, EINTR, kEverySecond},
    {kRead, ENOMEM, kEach},  // the buffer of a file of /proc (fs/seq_file.c)
    {kRead, EINTR, kEverySecond},
    {kReadWord, EINTR, kEverySecond},  // an eventfd or the pipe of a launch
    {kWrite, EINTR, kEverySecond},     // to an eventfd of the daemon's own; else it cannot fail
    {kPread, ENOMEM, kEach},
    {kPread, EINTR, kEverySecond},
    {kPwrite, ENOSPC, kEach},  // memory of a memfd counts as space of a file system (mm/shmem.c)
    {kPwrite, EINTR, kEverySecond},
    {kGetdents, EACCES, kEach},
    {kGetdents, EINTR, kEverySecond},  // the lock of a directory (fs/readdir.c, iterate_dir())
    {kFstat, EACCES, kEach},
    {kStatx, ENOMEM, kEach},  // room for the path (fs/namei.c, getname_flags())
    {kStatx, EACCES, kOnce},
    {kStatx, EINTR, kEverySecond},
    {kFstatfs, EACCES, kEach},
    {kReadlink, ENOMEM, kEach},
    {kAccess, ENOMEM, kEach},
    {kDuplicate, EMFILE, kEach},
    {kAddSeals, EACCES, kEach},
    {kGetSeals, EACCES, kEach},
    {kMemfdCreate, EMFILE, kEach},
    {kFtruncate, ENOMEM, kEach},
    {kFtruncate, EINTR, kEverySecond},
    {kMmap, ENOMEM, kEach},
    {kEventfd, EMFILE, kEach},
    {kEpollCtl, ENOSPC, kEach},  // fs.epoll.max_user_watches
    {kEpollWait, EINTR, kEverySecond},
    {kPoll, EINTR, kEverySecond},  // of one or two descriptors it cannot say anything else
    {kPidfdOpen, EMFILE, kEach},
    {kSignal, EPERM, kEach},
    {kSignal, ESRCH, kEach},  // also of a process that is there: nothing may follow from it
    {kWaitid, EINTR, kEverySecond},
    {kSendmsg, ENOBUFS, kEach},
    {kSendmsg, EAGAIN, kEach},  // the peer does not read
    {kSendmsg, EINTR, kEverySecond},
    {kRecvmsg, ECONNRESET, kEach},
    {kRecvmsg, EINTR, kEverySecond},
    {kSocketpair, EMFILE, kEach},
    {kPipe, EMFILE, kEach},
    {kKcmp, EPERM, kEach},
    {kFutex, EINTR, kEverySecond},
    {kProcmapQuery, EINTR, kEverySecond},
    {kProcmapQuery, ENOTTY, kAll},  // before Linux 6.11
    {kClone, EAGAIN, kEach},        // the limit of processes
    {kChildSetsid, EPERM, kEach},
    {kChildDup3, EBUSY, kEach},
    {kChildCloseRange, ENOSYS, kEach},  // before Linux 5.9
    {kChildChdir, EACCES, kEach},
    {kChildExecve, ENOMEM, kEach},
};

constexpr const char* kNames[] = {
    "open",
    "read",
    "read of a word",
    "write",
    "pread",
    "pwrite",
    "getdents64",
    "fstat",
    "statx",
    "fstatfs",
    "readlink",
    "access",
    "F_DUPFD_CLOEXEC",
    "F_ADD_SEALS",
    "F_GET_SEALS",
    "memfd_create",
    "ftruncate",
    "mmap",
    "eventfd",
    "epoll_ctl",
    "epoll_wait",
    "poll",
    "pidfd_open",
    "pidfd_send_signal",
    "waitid",
    "sendmsg",
    "recvmsg",
    "socketpair",
    "pipe2",
    "kcmp",
    "futex",
    "PROCMAP_QUERY",
    "clone",
    "child: setsid",
    "child: dup3",
    "child: close_range",
    "child: chdir",
    "child: execve",
};
static_assert(std::size(kNames) == kDaemonCalls);

}  // namespace

std::span<const DaemonCallError> DaemonCallErrors() { return kErrors; }

const char* NameOf(DaemonCall call) { return kNames[static_cast<size_t>(call)]; }

}  // namespace rehome
