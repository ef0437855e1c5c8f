// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vmm_events.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "vmm/reference/os_status.h"

namespace rehome {

absl::StatusOr<std::unique_ptr<VmmEvents>> VmmEvents::Create() {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE));
  if (!wake.valid()) return OsError("eventfd", "events", errno);
  return std::unique_ptr<VmmEvents>(new VmmEvents(std::move(wake)));
}

void VmmEvents::Post(VmmEvent::Kind kind, std::string text) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back({kind, std::move(text)});
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_.borrow().raw(), &one, sizeof(one));
}

std::optional<VmmEvent> VmmEvents::Take() {
  uint64_t count;
  if (read(wake_.borrow().raw(), &count, sizeof(count)) < 0) return std::nullopt;
  const std::lock_guard<std::mutex> lock(mutex_);
  VmmEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

}  // namespace rehome
