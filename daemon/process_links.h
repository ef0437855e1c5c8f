// SPDX-License-Identifier: Apache-2.0
//
// Agent connections by the process at their other end. A daemon that takes an unfinished migration
// up again knows both sides from its journal and nothing else; this is where it meets them, and
// nobody in their place: a process is its pid, its start time and the inode of its pidfd, all read
// from the descriptor that the kernel gave for the connection.
#ifndef REHOME_DAEMON_PROCESS_LINKS_H_
#define REHOME_DAEMON_PROCESS_LINKS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/interrupt.h"
#include "daemon/migration.h"
#include "daemon/vmm_link.h"
#include "daemon/wakeup.h"

namespace rehome {

// Thread-safe. Asks links for process() and closed() under its own lock: they must not wait.
class ProcessLinks {
 public:
  // A connection that has said HELLO. `claimed`: somebody knows it already.
  void Add(std::shared_ptr<VmmLink> link, bool claimed);
  // The connection is over. Harmless for one that was never added.
  void Remove(const VmmLink* link);
  // Whether Await() has given it to somebody, or it came claimed.
  bool IsClaimed(const VmmLink* link) const;

  // The newest living connection of exactly this process, as soon as there is one; it is claimed
  // then. DEADLINE_EXCEEDED / AGENT_TIMEOUT, CANCELLED / INTERRUPTED, RESOURCE_EXHAUSTED /
  // FD_LIMIT. `interrupt` may be null.
  absl::StatusOr<std::shared_ptr<VmmLink>> Await(const ProcessIdentity& process,
                                                 std::chrono::steady_clock::time_point deadline,
                                                 const Interrupt* interrupt);

 private:
  struct Entry {
    std::shared_ptr<VmmLink> link;
    bool claimed = false;
  };
  struct Waiter {
    ProcessIdentity process;
    Wakeup* wakeup;
  };
  // REQUIRES: mutex_. Null if there is none.
  std::shared_ptr<VmmLink> Claim(const ProcessIdentity& process);

  mutable std::mutex mutex_;
  std::multimap<int32_t, Entry> links_;  // by pid; those of one pid in the order of Add()
  std::vector<Waiter> waiters_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_PROCESS_LINKS_H_
