// SPDX-License-Identifier: Apache-2.0
//
// Keeps children from staying zombies. A target that took a guest over is our child for as long as
// we live, and nobody waits for it any more once its migration is over.
#ifndef REHOME_DAEMON_CHILD_REAPER_H_
#define REHOME_DAEMON_CHILD_REAPER_H_

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/wakeup.h"
#include "kvmglue/fd.h"

namespace rehome {

// Thread-safe; has a thread of its own, which sleeps until a child exits. Somebody else may reap a
// watched child first (Fence::AwaitExit() does).
class ChildReaper {
 public:
  // RESOURCE_EXHAUSTED / FD_LIMIT.
  static absl::StatusOr<std::unique_ptr<ChildReaper>> Create();
  // Reaps what has exited and stops the thread. Children that live are left alone; they are init's
  // when the daemon has ended.
  ~ChildReaper();

  // Reaps the child behind `pidfd` when it exits; keeps a duplicate until then. RESOURCE_EXHAUSTED
  // / FD_LIMIT.
  absl::Status Watch(BorrowedFd pidfd);

 private:
  ChildReaper(UniqueFd epoll, Wakeup wakeup)
      : epoll_(std::move(epoll)), wakeup_(std::move(wakeup)) {}
  void Run();
  int Turn(int timeout_ms);  // the number of events handled, the wakeup among them
  void Reap(int raw);

  const UniqueFd epoll_;
  Wakeup wakeup_;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::map<int, UniqueFd> pidfds_;  // by their numbers, which epoll gives back
  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_CHILD_REAPER_H_
