// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/prctl.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/fence.h"
#include "daemon/inode_holders.h"
#include "daemon/proc_files.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "daemon/shared_search.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::steady_clock;

// include/linux/sched.h; set in do_exit() before anything is torn down and never cleared.
constexpr uint32_t kPfExiting = 0x4;

// /proc tells nobody when a task begins to exit, so it is read again and again, with short pauses:
// the guest stands still meanwhile, and the dying threads may need the core that we use. Measured
// on two cores: 50 looks without a pause made the fence 1.5 to 2 times as long.
constexpr int kEagerLooks = 2;
constexpr nanoseconds kLookPause{20'000};
constexpr unsigned long kTimerSlackNs = 1000;

// The kernel adds 50 us to each sleep of an ordinary thread. Not so while this lives; afterwards
// again, because a process that this thread starts inherits it.
class PreciseSleep {
 public:
  PreciseSleep() { prctl(PR_SET_TIMERSLACK, kTimerSlackNs); }
  ~PreciseSleep() { prctl(PR_SET_TIMERSLACK, before_); }
  PreciseSleep(const PreciseSleep&) = delete;
  PreciseSleep& operator=(const PreciseSleep&) = delete;

 private:
  const unsigned long before_ = static_cast<unsigned long>(prctl(PR_GET_TIMERSLACK));
};

absl::Status FenceTimeout(std::string_view what) {
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kFenceTimeout, what);
}

// Whether no task of the process can enter user or guest mode again. After SIGKILL the set of tasks
// only shrinks (kernel/fork.c, copy_process(): no new thread with a fatal signal pending), but a
// listing may lack tasks that live: when the one that the kernel stands on vanishes, the listing
// ends there (fs/proc/base.c, next_tid()). A listing that is as long as the number of threads was
// before it has them all.
absl::StatusOr<bool> AreTasksStopped(const ProcessIdentity& process) {
  const std::string path = ProcPath(process.pid);
  absl::StatusOr<TaskStat> leader = ReadTaskStat(path + "/stat");
  if (absl::IsNotFound(leader.status())) return true;
  if (!leader.ok()) return leader.status();
  if (leader->start_ticks != process.start_ticks) return true;  // gone, and its number re-used
  absl::StatusOr<std::vector<int32_t>> tasks = ListNumbers(path + "/task");
  if (absl::IsNotFound(tasks.status())) return true;
  if (!tasks.ok()) return tasks.status();
  if (tasks->size() != leader->thread_count) return false;
  for (int32_t tid : *tasks) {
    absl::StatusOr<TaskStat> task = ReadTaskStat(absl::StrCat(path, "/task/", tid, "/stat"));
    if (absl::IsNotFound(task.status())) continue;
    if (!task.ok()) return task.status();
    const bool dead = task->state == 'Z' || task->state == 'X';
    if (!dead && (task->flags & kPfExiting) == 0) return false;
  }
  return true;
}

class ProcFence final : public Fence {
 public:
  absl::Status Kill(BorrowedFd pidfd) override {
    absl::Status status = SendSignal(pidfd, SIGKILL);
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  absl::StatusOr<uint64_t> AwaitTasksStopped(BorrowedFd pidfd, const ProcessIdentity& process,
                                             milliseconds timeout) override {
    const auto deadline = steady_clock::now() + timeout;
    const PreciseSleep precise;
    for (int look = 0;; ++look) {
      absl::StatusOr<bool> stopped = AreTasksStopped(process);
      if (!stopped.ok()) return stopped.status();
      if (*stopped) return rehome_monotonic_ns();
      if (steady_clock::now() >= deadline) {
        return FenceTimeout(absl::StrCat("process ", process.pid, " has tasks that do not exit"));
      }
      if (look >= kEagerLooks && AwaitExitOf(pidfd, kLookPause)) return rehome_monotonic_ns();
    }
  }

  absl::StatusOr<uint64_t> AwaitExit(BorrowedFd pidfd, milliseconds timeout) override {
    if (!AwaitExitOf(pidfd, timeout)) return FenceTimeout("the process does not exit");
    const uint64_t now = rehome_monotonic_ns();
    ReapIfExited(pidfd);  // process_launcher.h
    return now;
  }

  absl::StatusOr<HolderSearch> FindHolders(const std::vector<InodeId>& inodes,
                                           const std::vector<ProcessIdentity>& allowed) override {
    return search_.Find({.inodes = inodes, .allowed = allowed});
  }

 private:
  SharedSearch search_{FindInodeHolders};
};

}  // namespace

std::unique_ptr<Fence> NewProcFence() { return std::make_unique<ProcFence>(); }

}  // namespace rehome
