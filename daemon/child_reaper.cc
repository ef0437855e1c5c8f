// SPDX-License-Identifier: Apache-2.0
#include "daemon/child_reaper.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "absl/strings/str_cat.h"
#include "daemon/process_identity.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Exits handled by one epoll_wait(2).
constexpr int kEventsPerTurn = 16;

absl::Status EpollFailed(const char* call) {
  return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kFdLimit,
                    absl::StrCat(call, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildReaper>> ChildReaper::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return EpollFailed("epoll_create1");
  absl::StatusOr<Wakeup> wakeup = Wakeup::Create();
  if (!wakeup.ok()) return wakeup.status();
  epoll_event event = {.events = EPOLLIN, .data = {.fd = wakeup->fd().raw()}};
  if (epoll_ctl(epoll.borrow().raw(), EPOLL_CTL_ADD, wakeup->fd().raw(), &event) != 0) {
    return EpollFailed("epoll_ctl");
  }
  std::unique_ptr<ChildReaper> reaper(new ChildReaper(std::move(epoll), *std::move(wakeup)));
  reaper->thread_ = std::thread([raw = reaper.get()] { raw->Run(); });
  return reaper;
}

ChildReaper::~ChildReaper() {
  stopping_ = true;
  wakeup_.Signal();
  if (thread_.joinable()) thread_.join();
}

absl::Status ChildReaper::Watch(BorrowedFd pidfd) {
  absl::StatusOr<UniqueFd> own = Duplicate(pidfd);
  if (!own.ok()) return own.status();
  const int raw = own->borrow().raw();
  std::lock_guard lock(mutex_);
  pidfds_.emplace(raw, *std::move(own));
  epoll_event event = {.events = EPOLLIN, .data = {.fd = raw}};
  if (epoll_ctl(epoll_.borrow().raw(), EPOLL_CTL_ADD, raw, &event) == 0) return absl::OkStatus();
  absl::Status failed = EpollFailed("epoll_ctl");
  pidfds_.erase(raw);
  return failed;
}

void ChildReaper::Run() {
  while (!stopping_) Turn(/*timeout_ms=*/-1);
  // The exits from before the stop. The wakeup stays signalled, so one event is no child.
  while (Turn(/*timeout_ms=*/0) > 1) {
  }
}

int ChildReaper::Turn(int timeout_ms) {
  epoll_event events[kEventsPerTurn];
  const int count = epoll_wait(epoll_.borrow().raw(), events, kEventsPerTurn, timeout_ms);
  for (int i = 0; i < count; ++i) {
    if (events[i].data.fd != wakeup_.fd().raw()) Reap(events[i].data.fd);
  }
  return count;
}

void ChildReaper::Reap(int raw) {
  std::lock_guard lock(mutex_);
  const auto found = pidfds_.find(raw);
  if (found == pidfds_.end()) return;
  ReapIfExited(found->second.borrow());
  epoll_ctl(epoll_.borrow().raw(), EPOLL_CTL_DEL, raw, nullptr);
  pidfds_.erase(found);
}

}  // namespace rehome
