// SPDX-License-Identifier: Apache-2.0
//
// Calls back when the time of a key has come. One thread for all keys.
#ifndef REHOME_DAEMON_DEADLINE_TIMER_H_
#define REHOME_DAEMON_DEADLINE_TIMER_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"

namespace rehome {

// Thread-safe.
class DeadlineTimer {
 public:
  using Clock = std::chrono::steady_clock;

  // `expired` is called from the timer's thread, without a lock, at most once for each Schedule().
  explicit DeadlineTimer(std::function<void(const std::string& key)> expired)
      : expired_(std::move(expired)) {}
  ~DeadlineTimer() { Stop(); }

  // Starts the thread if it does not run. RESOURCE_EXHAUSTED / THREAD_LIMIT. Apart from Schedule(),
  // so that a caller can find out before it has committed to anything.
  absl::Status Start();
  // REQUIRES: Start() succeeded; nothing happens after Stop().
  void Schedule(const std::string& key, Clock::time_point when);
  // After it returns `expired` is not called for `key`, unless that call is under way already.
  void Drop(const std::string& key);
  // Drops all keys and waits for a call that is under way. Not from within `expired`.
  void Stop();

 private:
  void Run();

  const std::function<void(const std::string&)> expired_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // By key, searched for the earliest at each turn: there are as many as unfinished migrations, of
  // which the registry has some hundred at most.
  std::map<std::string, Clock::time_point> deadlines_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_DEADLINE_TIMER_H_
