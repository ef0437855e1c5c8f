// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_links.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {

void ProcessLinks::Add(std::shared_ptr<VmmLink> link, bool claimed) {
  const ProcessIdentity process = link->process();
  std::lock_guard lock(mutex_);
  links_.emplace(process.pid, Entry{std::move(link), claimed});
  for (const Waiter& waiter : waiters_) {
    if (waiter.process == process) waiter.wakeup->Signal();
  }
}

void ProcessLinks::Remove(const VmmLink* link) {
  const int32_t pid = link->process().pid;
  std::lock_guard lock(mutex_);
  const auto [begin, end] = links_.equal_range(pid);
  const auto found = std::find_if(
      begin, end, [link](const auto& entry) { return entry.second.link.get() == link; });
  if (found != end) links_.erase(found);
}

bool ProcessLinks::IsClaimed(const VmmLink* link) const {
  const int32_t pid = link->process().pid;
  std::lock_guard lock(mutex_);
  const auto [begin, end] = links_.equal_range(pid);
  return std::any_of(begin, end, [link](const auto& entry) {
    return entry.second.link.get() == link && entry.second.claimed;
  });
}

std::shared_ptr<VmmLink> ProcessLinks::Claim(const ProcessIdentity& process) {
  const auto [begin, end] = links_.equal_range(process.pid);
  for (auto it = end; it != begin;) {
    Entry& entry = (--it)->second;
    if (entry.link->process() != process || entry.link->closed()) continue;
    entry.claimed = true;
    return entry.link;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<VmmLink>> ProcessLinks::Await(
    const ProcessIdentity& process, std::chrono::steady_clock::time_point deadline,
    const Interrupt* interrupt) {
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  std::unique_lock lock(mutex_);
  waiters_.push_back({process, &*wakeup});
  Wakeup::Result woken = Wakeup::Result::kSignalled;
  std::shared_ptr<VmmLink> link = Claim(process);
  while (link == nullptr && woken == Wakeup::Result::kSignalled) {
    lock.unlock();
    woken = wakeup->Wait(deadline, interrupt);
    lock.lock();
    link = Claim(process);
  }
  std::erase_if(waiters_, [&](const Waiter& waiter) { return waiter.wakeup == &*wakeup; });
  if (link != nullptr) return link;
  if (woken == Wakeup::Result::kInterrupted) {
    return MakeStatus(absl::StatusCode::kCancelled, reason::kInterrupted,
                      "stopped while waiting for a VMM to connect again");
  }
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, reason::kAgentTimeout,
                    absl::StrCat("process ", process.pid, " has not connected again"));
}

}  // namespace rehome
