// SPDX-License-Identifier: Apache-2.0
//
// What the parts of the guest's /init count, each its own. Written by the part's threads, read by
// the control server.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_COUNTERS_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_COUNTERS_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

namespace rehome::linux_guest {

using Counter = std::atomic<uint64_t>;

// How often something went wrong, and the words of the first time. Thread-safe.
class Complaints {
 public:
  void Add(const std::string& text);
  uint64_t count() const { return count_; }
  std::string first() const;

 private:
  mutable std::mutex mutex_;
  std::string first_;
  Counter count_ = 0;
};

// `text` and what errno says.
std::string WithErrno(const std::string& text);

struct Counters {
  Counter echo_streams = 0;  // accepted
  Counter echo_ended = 0;    // by the peer, between two frames
  Counter echo_frames = 0;   // good ones, sent back whole
  Counter echo_bytes = 0;    // of those, headers included
  Complaints echo_faults;    // of the connection, and frames that are not what they should be

  Counter time_requests = 0;
  Counter account_requests = 0;

  Counter console_ticks = 0;
  Counter console_pings = 0;

  Counter kmsg_lines = 0;
  Counter kmsg_planted = 0;  // our own false alarm, seen
  Complaints kmsg_lost;      // records that were overwritten before they were read
  Complaints kmsg_alarms;

  Complaints faults;  // of /init itself
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_COUNTERS_H_
