// SPDX-License-Identifier: Apache-2.0
//
// Looks at the guest's clocks from all its vCPUs: none may ever show less than any vCPU saw before.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_CLOCK_WATCH_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_CLOCK_WATCH_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "bench/linux_guest/guest_account.h"
#include "bench/linux_guest/init/counters.h"

namespace rehome::linux_guest {

// The largest value that any thread saw so far, and how far behind it one was seen. Thread-safe.
class HighWater {
 public:
  // `before` is latest() from before the clock was read.
  void See(uint64_t before, uint64_t now);
  uint64_t latest() const { return latest_; }
  uint64_t backwards() const { return backwards_; }  // how often
  uint64_t worst_ns() const { return worst_ns_; }

 private:
  Counter latest_ = 0;
  Counter backwards_ = 0;
  Counter worst_ns_ = 0;
};

// Thread-safe.
class ClockWatch {
 public:
  // Looks at each clock once. `last_look` is the caller's own, 0 at first: the time between two
  // looks of one caller is a gap.
  void Look(uint64_t& last_look);
  // The largest gap starts anew.
  void Mark() { gap_ns_ = 0; }
  // A thread on each of `vcpus` that looks each few milliseconds.
  void Start(uint32_t vcpus);
  void Report(GuestAccount& account) const;

 private:
  static constexpr size_t kClocks = 3;  // monotonic, boot time, real time
  std::array<HighWater, kClocks> clocks_;
  Counter looks_ = 0;
  Counter gap_ns_ = 0;
};

// Confines the calling thread to one vCPU. False if there is no such one.
bool PinTo(uint32_t vcpu);

uint64_t NowNs(int clock);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_CLOCK_WATCH_H_
