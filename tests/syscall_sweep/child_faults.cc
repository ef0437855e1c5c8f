// SPDX-License-Identifier: Apache-2.0
#include "tests/syscall_sweep/child_faults.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>

namespace rehome {
namespace {

struct ChildCall {
  DaemonCall call;
  long number;
  uint64_t calls;  // that one child makes
};

// All that it makes and looks at the result of. Standard input, output and error, the agent's
// connection, and the pipe that tells of a failure make five dup3.
constexpr ChildCall kChildCalls[] = {
    {DaemonCall::kChildSetsid, SYS_setsid, 1},          {DaemonCall::kChildDup3, SYS_dup3, 5},
    {DaemonCall::kChildCloseRange, SYS_close_range, 1}, {DaemonCall::kChildChdir, SYS_chdir, 1},
    {DaemonCall::kChildExecve, SYS_execve, 1},
};

// Fails `number`; with dup3 the one whose second argument is `place`.
constexpr std::array<sock_filter, 6> FilterFor(long number, uint32_t place, uint32_t error) {
  const uint8_t other_call = 3, other_place = number == SYS_dup3 ? 1 : 0;
  return {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, other_call),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, place, 0, other_place),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
}

struct FilteredChild {
  ChildEntry entry;
  std::array<sock_filter, 6> filter;
  sock_fprog program;
};
FilteredChild g_child;

// The child has our memory and the thread-local variables of the thread that made it: no libc.
long SystemCall(long number, long a, long b, long c, long d = 0, long e = 0) {
  long result = number;
  register long fourth asm("r10") = d;
  register long fifth asm("r8") = e;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
               : "rcx", "r11", "memory");
  return result;
}

int RunFiltered(void* opaque) {
  const auto* child = static_cast<const FilteredChild*>(opaque);
  SystemCall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0);
  SystemCall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, reinterpret_cast<long>(&child->program));
  return child->entry.run(child->entry.argument);
}

}  // namespace

ChildEntry PrepareChild(SyscallFaultPage* page, const ChildEntry& entry) {
  if (page == nullptr || page->armed.load() == 0) return entry;
  ChildEntry result = entry;
  for (const ChildCall& made : kChildCalls) {
    const uint64_t before = page->counts[static_cast<size_t>(made.call)].fetch_add(made.calls);
    if (page->error == 0 || page->call != made.call) continue;
    // The first of this child's that has to fail ends it.
    const uint64_t first = page->nth > before ? page->nth - before : 1;
    if (first > made.calls || (page->pattern == FaultPattern::kOnce && page->nth <= before))
      continue;
    g_child.entry = entry;
    g_child.filter = FilterFor(made.number, static_cast<uint32_t>(first - 1),
                               static_cast<uint32_t>(page->error));
    g_child.program = {.len = static_cast<uint16_t>(g_child.filter.size()),
                       .filter = g_child.filter.data()};
    page->injected.fetch_add(1);
    result = {.run = RunFiltered, .argument = &g_child};
  }
  return result;
}

}  // namespace rehome
