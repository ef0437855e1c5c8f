// SPDX-License-Identifier: Apache-2.0
//
// The lines of the built-in guest's serial console ("heartbeat 17 steps 91234 errors 0"), and
// whether one is missing.
#ifndef REHOME_BENCH_HEARTBEAT_LOG_H_
#define REHOME_BENCH_HEARTBEAT_LOG_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "tests/harness/console_client.h"

namespace rehome::bench {

struct Heartbeat {
  uint64_t number = 0;
  uint64_t steps = 0;   // of all vCPUs
  uint64_t errors = 0;  // that the guest counted
};

// Nothing if the line is no whole heartbeat.
std::optional<Heartbeat> ParseHeartbeat(std::string_view line);

// What came over the console so far. Not thread-safe.
class HeartbeatLog {
 public:
  // What comes before the first whole heartbeat is the rest of a line and does not count.
  void Add(std::string_view line);

  uint64_t first() const { return first_; }  // number of the first heartbeat; 0: none yet
  uint64_t last() const { return last_.number; }
  uint64_t guest_errors() const { return last_.errors; }
  // Every heartbeat from first() to last() came, once, in order, and nothing else did. "" if so,
  // else what is wrong first.
  const std::string& fault() const { return fault_; }

 private:
  void Blame(const std::string& what);

  uint64_t first_ = 0;
  Heartbeat last_;
  std::string fault_;
};

// Keeps a HeartbeatLog of a console that somebody stays attached to. Thread-safe.
class ConsoleRecorder {
 public:
  explicit ConsoleRecorder(harness::ConsoleClient console);
  ~ConsoleRecorder();

  HeartbeatLog log() const;
  // Waits for a heartbeat with a higher number than `number`. False after `timeout`, or if the
  // console has hung up.
  bool AwaitBeyond(uint64_t number, std::chrono::milliseconds timeout) const;

 private:
  void Main();

  harness::ConsoleClient console_;  // used by the thread only
  mutable std::mutex mutex_;
  HeartbeatLog log_;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> hung_up_ = false;
  std::thread thread_;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_HEARTBEAT_LOG_H_
