// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a daemon: stands between it and libc, and fails the system call that the test
// names. A call is the daemon's own if it comes from the program itself: gRPC, protobuf and SQLite
// are shared libraries, and so is libc, whose own calls (the allocator's, a stream's) do not come
// by here at all.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>

#include "tests/preload_page.h"
#include "tests/syscall_sweep/child_faults.h"
#include "tests/syscall_sweep/syscall_fault_page.h"

namespace rehome {
namespace {

struct Range {
  uintptr_t begin = 0, end = 0;
};

// The code of the program itself, which dl_iterate_phdr(3) tells of first.
int TakeProgram(dl_phdr_info* info, size_t, void* result) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
    const uintptr_t begin = info->dlpi_addr + part.p_vaddr;
    *static_cast<Range*>(result) = {begin, begin + part.p_memsz};
  }
  return 1;
}

// Set when the library is loaded, by means of its own functions; until then they only pass on.
Range g_program;
SyscallFaultPage* g_page = nullptr;

__attribute__((constructor)) void Begin() {
  dl_iterate_phdr(TakeProgram, &g_program);
  g_page = MapPreloadPageOf<SyscallFaultPage>(kSyscallFaultVariable);
}

bool IsProgram(const void* address) {
  const auto place = reinterpret_cast<uintptr_t>(address);
  return place >= g_program.begin && place < g_program.end;
}

bool HasToFail(const SyscallFaultPage& page, uint64_t number) {
  switch (page.pattern) {
    case FaultPattern::kOnce:
      return number == page.nth;
    case FaultPattern::kForGood:
      return number >= page.nth;
    case FaultPattern::kEverySecond:
      return number % 2 == 1;
  }
  return false;
}

// Counts the call; true, with errno, if it has to fail.
bool Fails(DaemonCall call, const void* caller) {
  SyscallFaultPage* const page = g_page;
  if (page == nullptr || page->armed.load() == 0 || !IsProgram(caller)) return false;
  const uint64_t number = page->counts[static_cast<size_t>(call)].fetch_add(1) + 1;
  if (page->error == 0 || page->call != call || !HasToFail(*page, number)) return false;
  page->injected.fetch_add(1);
  errno = page->error;
  return true;
}

// The function of libc of that name; the second argument is there for its type.
template <typename Function>
Function Real(const char* name, Function) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

DaemonCall KindOfFcntl(int command) {
  switch (command) {
    case F_ADD_SEALS:
      return DaemonCall::kAddSeals;
    case F_GET_SEALS:
      return DaemonCall::kGetSeals;
    default:
      return DaemonCall::kDuplicate;
  }
}

}  // namespace
}  // namespace rehome

using rehome::DaemonCall;
using rehome::Fails;
using rehome::Real;

#define CALLER __builtin_return_address(0)
// The function of libc behind the one that is being defined.
#define NEXT(name) static const auto next = Real(#name, static_cast<decltype(&::name)>(nullptr))

extern "C" {

int __open_2(const char* path, int flags);
int __clone(int (*run)(void*), void* stack, int flags, void* argument, ...);
int pidfd_open(pid_t pid, unsigned flags) noexcept;
int pidfd_send_signal(int pidfd, int signal, siginfo_t* info, unsigned flags) noexcept;

int open(const char* path, int flags, ...) {
  NEXT(open);
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return Fails(DaemonCall::kOpen, CALLER) ? -1 : next(path, flags, mode);
}

int __open_2(const char* path, int flags) {
  NEXT(__open_2);
  return Fails(DaemonCall::kOpen, CALLER) ? -1 : next(path, flags);
}

DIR* opendir(const char* path) {
  NEXT(opendir);
  return Fails(DaemonCall::kOpen, CALLER) ? nullptr : next(path);
}

ssize_t read(int fd, void* data, size_t size) {
  NEXT(read);
  const DaemonCall call = size == sizeof(uint64_t) ? DaemonCall::kReadWord : DaemonCall::kRead;
  return Fails(call, CALLER) ? -1 : next(fd, data, size);
}

ssize_t write(int fd, const void* data, size_t size) {
  NEXT(write);
  return Fails(DaemonCall::kWrite, CALLER) ? -1 : next(fd, data, size);
}

ssize_t pread(int fd, void* data, size_t size, off_t offset) {
  NEXT(pread);
  return Fails(DaemonCall::kPread, CALLER) ? -1 : next(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  NEXT(pwrite);
  return Fails(DaemonCall::kPwrite, CALLER) ? -1 : next(fd, data, size, offset);
}

ssize_t getdents64(int fd, void* data, size_t size) noexcept {
  NEXT(getdents64);
  return Fails(DaemonCall::kGetdents, CALLER) ? -1 : next(fd, data, size);
}

int fstat(int fd, struct stat* file) noexcept {
  NEXT(fstat);
  return Fails(DaemonCall::kFstat, CALLER) ? -1 : next(fd, file);
}

int statx(int directory, const char* path, int flags, unsigned mask, struct statx* file) noexcept {
  NEXT(statx);
  return Fails(DaemonCall::kStatx, CALLER) ? -1 : next(directory, path, flags, mask, file);
}

int fstatfs(int fd, struct statfs* file_system) noexcept {
  NEXT(fstatfs);
  return Fails(DaemonCall::kFstatfs, CALLER) ? -1 : next(fd, file_system);
}

ssize_t readlink(const char* path, char* target, size_t size) noexcept {
  NEXT(readlink);
  return Fails(DaemonCall::kReadlink, CALLER) ? -1 : next(path, target, size);
}

int access(const char* path, int mode) noexcept {
  NEXT(access);
  return Fails(DaemonCall::kAccess, CALLER) ? -1 : next(path, mode);
}

int fcntl(int fd, int command, ...) {
  NEXT(fcntl);
  va_list more;
  va_start(more, command);
  void* argument = va_arg(more, void*);
  va_end(more);
  return Fails(rehome::KindOfFcntl(command), CALLER) ? -1 : next(fd, command, argument);
}

int memfd_create(const char* name, unsigned flags) noexcept {
  NEXT(memfd_create);
  return Fails(DaemonCall::kMemfdCreate, CALLER) ? -1 : next(name, flags);
}

int ftruncate(int fd, off_t size) noexcept {
  NEXT(ftruncate);
  return Fails(DaemonCall::kFtruncate, CALLER) ? -1 : next(fd, size);
}

void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  NEXT(mmap);
  if (Fails(DaemonCall::kMmap, CALLER)) return MAP_FAILED;
  return next(address, size, protection, flags, fd, offset);
}

int eventfd(unsigned count, int flags) noexcept {
  NEXT(eventfd);
  return Fails(DaemonCall::kEventfd, CALLER) ? -1 : next(count, flags);
}

int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
  NEXT(epoll_ctl);
  // What ends a watch has nothing to fail of.
  if (operation == EPOLL_CTL_DEL) return next(epoll, operation, fd, event);
  return Fails(DaemonCall::kEpollCtl, CALLER) ? -1 : next(epoll, operation, fd, event);
}

int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms) {
  NEXT(epoll_wait);
  return Fails(DaemonCall::kEpollWait, CALLER) ? -1 : next(epoll, events, count, timeout_ms);
}

int poll(pollfd* entries, nfds_t count, int timeout_ms) {
  NEXT(poll);
  return Fails(DaemonCall::kPoll, CALLER) ? -1 : next(entries, count, timeout_ms);
}

int ppoll(pollfd* entries, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  NEXT(ppoll);
  return Fails(DaemonCall::kPoll, CALLER) ? -1 : next(entries, count, timeout, mask);
}

int pidfd_open(pid_t pid, unsigned flags) noexcept {
  NEXT(pidfd_open);
  return Fails(DaemonCall::kPidfdOpen, CALLER) ? -1 : next(pid, flags);
}

int pidfd_send_signal(int pidfd, int signal, siginfo_t* info, unsigned flags) noexcept {
  NEXT(pidfd_send_signal);
  return Fails(DaemonCall::kSignal, CALLER) ? -1 : next(pidfd, signal, info, flags);
}

int waitid(idtype_t type, id_t id, siginfo_t* info, int options) {
  NEXT(waitid);
  return Fails(DaemonCall::kWaitid, CALLER) ? -1 : next(type, id, info, options);
}

ssize_t sendmsg(int socket, const msghdr* message, int flags) {
  NEXT(sendmsg);
  return Fails(DaemonCall::kSendmsg, CALLER) ? -1 : next(socket, message, flags);
}

ssize_t recvmsg(int socket, msghdr* message, int flags) {
  NEXT(recvmsg);
  return Fails(DaemonCall::kRecvmsg, CALLER) ? -1 : next(socket, message, flags);
}

int socketpair(int domain, int type, int protocol, int* pair) noexcept {
  NEXT(socketpair);
  return Fails(DaemonCall::kSocketpair, CALLER) ? -1 : next(domain, type, protocol, pair);
}

int pipe2(int* pair, int flags) noexcept {
  NEXT(pipe2);
  return Fails(DaemonCall::kPipe, CALLER) ? -1 : next(pair, flags);
}

// PROCMAP_QUERY is the daemon's only one.
int ioctl(int fd, unsigned long request, ...) noexcept {
  NEXT(ioctl);
  va_list more;
  va_start(more, request);
  void* argument = va_arg(more, void*);
  va_end(more);
  return Fails(DaemonCall::kProcmapQuery, CALLER) ? -1 : next(fd, request, argument);
}

long syscall(long number, ...) noexcept {
  NEXT(syscall);
  va_list more;
  va_start(more, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(more, long);
  va_end(more);
  if (number == SYS_kcmp && Fails(DaemonCall::kKcmp, CALLER)) return -1;
  if (number == SYS_futex && Fails(DaemonCall::kFutex, CALLER)) return -1;
  return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
              arguments[5]);
}

int __clone(int (*run)(void*), void* stack, int flags, void* argument, ...) {
  NEXT(__clone);
  va_list more;
  va_start(more, argument);
  void* pidfd = va_arg(more, void*);
  va_end(more);
  if (Fails(DaemonCall::kClone, CALLER)) return -1;
  const rehome::ChildEntry child = rehome::PrepareChild(rehome::g_page, {run, argument});
  return next(child.run, stack, flags, child.argument, pidfd);
}

}  // extern "C"
