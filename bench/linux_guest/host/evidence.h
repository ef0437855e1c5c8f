// SPDX-License-Identifier: Apache-2.0
//
// What was seen of a guest while it was moved, from both sides; judge.h says what it proves.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_EVIDENCE_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_EVIDENCE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/linux_guest/guest_account.h"

namespace rehome::linux_guest {

// What the host counted of the stream that it sent through the guest.
struct EchoResult {
  uint64_t frames_sent = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_compared = 0;  // came back and were the right ones
  bool ended = false;           // the guest ended the stream after the last byte
  bool reset = false;           // ECONNRESET or EPIPE
  std::string fault;            // the first thing that was wrong; "": nothing
};

// What the disk's file holds, after the guest came to rest.
struct DiskResult {
  uint64_t file_slots = 0;
  uint64_t checked = 0;  // records that are what they should be
  uint64_t faults = 0;   // slots that are not
  std::string first_fault;
};

// What came over the console.
struct ConsoleResult {
  uint64_t run = 0;  // of "ready"; 0: it never came
  uint64_t first_tick = 0;
  uint64_t last_tick = 0;
  uint64_t ticks = 0;
  uint64_t missing = 0;  // numbers that were left out
  uint64_t again = 0;    // ticks with a number that was there already
  uint64_t damaged = 0;  // lines since "ready" that nobody writes like that
  uint64_t pongs = 0;    // that were asked for
  std::string first_fault;
  std::string hung_up;  // why the console is no longer attached; "": it is
};

// Times are nanoseconds.
struct TimeSample {
  uint64_t host_mono = 0;  // when
  int64_t offset = 0;      // the guest's wall clock minus the host's
  uint64_t error = 0;      // half the time that the exchange took: `offset` is within it
};

struct Evidence {
  uint64_t hops_wanted = 0;
  uint64_t hops_done = 0;
  std::string hop_fault;  // why one failed, or nothing went on after it

  GuestAccount first;  // the guest's own, before the first hop and after the last
  GuestAccount last;
  EchoResult echo;
  DiskResult disk;
  ConsoleResult console;
  std::vector<TimeSample> times;
  size_t times_before_hops = 0;  // of them, taken before the first hop

  // What the host asked for, as it counted itself.
  uint64_t time_requests = 0;
  uint64_t account_requests = 0;
  uint64_t pings = 0;
  std::string control_fault;  // of the control connection
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_EVIDENCE_H_
