// SPDX-License-Identifier: Apache-2.0
#include "daemon/deadline_timer.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "daemon/thread.h"

namespace rehome {

absl::Status DeadlineTimer::Start() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (thread_.joinable() || stopping_) return absl::OkStatus();
  absl::StatusOr<std::thread> thread = StartThread([this] { Run(); });
  if (!thread.ok()) return thread.status();
  thread_ = *std::move(thread);
  return absl::OkStatus();
}

void DeadlineTimer::Schedule(const std::string& key, Clock::time_point when) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) return;
  deadlines_[key] = when;
  changed_.notify_all();
}

void DeadlineTimer::Drop(const std::string& key) {
  // The thread may wake for a key that is gone; it then looks for the next.
  std::lock_guard<std::mutex> lock(mutex_);
  deadlines_.erase(key);
}

void DeadlineTimer::Stop() {
  std::thread thread;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    deadlines_.clear();
    thread = std::move(thread_);
    changed_.notify_all();
  }
  if (thread.joinable()) thread.join();
}

void DeadlineTimer::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    const auto next =
        std::min_element(deadlines_.begin(), deadlines_.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    if (next == deadlines_.end()) {
      changed_.wait(lock);
    } else if (const Clock::time_point when = next->second; Clock::now() < when) {
      changed_.wait_until(lock, when);
    } else {
      const std::string key = next->first;
      deadlines_.erase(next);
      lock.unlock();
      expired_(key);
      lock.lock();
    }
  }
}

}  // namespace rehome
