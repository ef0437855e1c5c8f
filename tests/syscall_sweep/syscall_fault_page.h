// SPDX-License-Identifier: Apache-2.0
//
// What a test and the system call faults in a daemon's process (syscall_faults.cc) share.
#ifndef REHOME_TESTS_SYSCALL_SWEEP_SYSCALL_FAULT_PAGE_H_
#define REHOME_TESTS_SYSCALL_SWEEP_SYSCALL_FAULT_PAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace rehome {

// Environment variable with the page's path.
inline constexpr char kSyscallFaultVariable[] = "SYSCALL_FAULT_PAGE";

// The kinds that are counted apart. kChild*: between clone and exec of a target.
enum class DaemonCall : uint32_t {
  kOpen,
  kRead,
  kReadWord,  // 8 bytes, as from an eventfd
  kWrite,
  kPread,
  kPwrite,
  kGetdents,
  kFstat,
  kStatx,
  kFstatfs,
  kReadlink,
  kAccess,
  kDuplicate,
  kAddSeals,
  kGetSeals,
  kMemfdCreate,
  kFtruncate,
  kMmap,
  kEventfd,
  kEpollCtl,
  kEpollWait,
  kPoll,
  kPidfdOpen,
  kSignal,
  kWaitid,
  kSendmsg,
  kRecvmsg,
  kSocketpair,
  kPipe,
  kKcmp,
  kFutex,
  kProcmapQuery,
  kClone,
  kChildSetsid,
  kChildDup3,
  kChildCloseRange,
  kChildChdir,
  kChildExecve,
};
inline constexpr size_t kDaemonCalls = static_cast<size_t>(DaemonCall::kChildExecve) + 1;

enum class FaultPattern : uint32_t {
  kOnce,         // the Nth
  kForGood,      // the Nth, and all after it
  kEverySecond,  // the first, the third: who makes the call again at once has it made
};

// All zero: nothing is counted and nothing fails.
struct SyscallFaultPage {
  std::atomic<uint32_t> armed;
  DaemonCall call;  // that fails
  int32_t error;    // with this errno; 0: none fails
  FaultPattern pattern;
  uint64_t nth;  // the first of its kind is 1
  std::atomic<uint64_t> counts[kDaemonCalls];
  std::atomic<uint64_t> injected;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

}  // namespace rehome

#endif  // REHOME_TESTS_SYSCALL_SWEEP_SYSCALL_FAULT_PAGE_H_
