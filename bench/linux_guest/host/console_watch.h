// SPDX-License-Identifier: Apache-2.0
//
// Reads the guest's console, and types on it.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_CONSOLE_WATCH_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_CONSOLE_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "bench/linux_guest/host/evidence.h"
#include "tests/harness/console_client.h"

namespace rehome::linux_guest {

// What the lines amount to. Not thread-safe.
class ConsoleLog {
 public:
  // One line as it came, with or without a carriage return at its end.
  void Add(std::string_view line);
  void HungUp(const std::string& why) { result_.hung_up = why; }
  // The answer that the guest owes; any other pong is a fault.
  void ExpectPong(const std::string& text) { expected_pong_ = text; }

  const ConsoleResult& result() const { return result_; }
  const std::string& failed() const { return failed_; }  // what the guest says that it cannot do
  // The last lines, for a person.
  const std::string& tail() const { return tail_; }

 private:
  void AddTick(std::string_view said);
  void Blame(const std::string& fault);

  ConsoleResult result_;
  uint64_t last_mono_ns_ = 0;
  std::string expected_pong_;
  std::string failed_;
  std::string tail_;
};

// Keeps a ConsoleLog of a console that somebody stays attached to. Thread-safe.
class ConsoleWatch {
 public:
  explicit ConsoleWatch(harness::ConsoleClient console);
  ~ConsoleWatch();

  ConsoleLog log() const;
  // Waits until `enough` says so of the log. False after `timeout` or when the console hung up.
  bool Await(std::chrono::milliseconds timeout,
             const std::function<bool(const ConsoleLog&)>& enough);
  // Types a ping and waits for the pong.
  bool Ping(const std::string& text, std::chrono::milliseconds timeout);

 private:
  void Main();

  harness::ConsoleClient console_;  // used by the thread only
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ConsoleLog log_;      // guarded by mutex_
  std::string typing_;  // guarded by mutex_: not yet sent
  bool stop_ = false;   // guarded by mutex_
  std::thread thread_;
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_CONSOLE_WATCH_H_
