// SPDX-License-Identifier: Apache-2.0
//
// The page that the processes of the floor share, and the word they wait on.
#ifndef REHOME_BENCH_FLOOR_SHARED_H_
#define REHOME_BENCH_FLOOR_SHARED_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

#include "bench/floor_vm.h"

namespace rehome::bench {

// CLOCK_MONOTONIC, as the product's time stamps.
inline uint64_t FloorNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

inline void FloorSleepMs(int ms) {
  const timespec duration = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1'000'000L};
  nanosleep(&duration, nullptr);
}

// A number that only grows, in a cache line of its own. Any thread of any of the processes.
class FloorWord {
 public:
  uint32_t value() const { return word_.load(std::memory_order_acquire); }

  void Announce(uint32_t value) {
    word_.store(value, std::memory_order_release);
    syscall(SYS_futex, &word_, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

  // Until it is at least `value`.
  void WaitFor(uint32_t value) {
    uint32_t now;
    while ((now = this->value()) < value) {
      syscall(SYS_futex, &word_, FUTEX_WAIT, now, nullptr, nullptr, 0);
    }
  }

 private:
  alignas(64) std::atomic<uint32_t> word_ = 0;
};

struct FloorShared {
  FloorWord prepared;  // generation + 1: that process is ready
  FloorWord request;   // the process of generation < request gives the guest away
  FloorWord stopped;   // all vCPUs of the generation before are out of the guest
  FloorWord saved;     // the state for this generation is complete
  FloorWord restored;  // this generation may run
  alignas(64) std::atomic<uint32_t> stopped_count = 0;
  alignas(64) std::atomic<uint32_t> saved_count = 0;
  alignas(64) std::atomic<uint32_t> restored_count = 0;
  alignas(64) std::atomic<uint32_t> entered_count = 0;
  int memory_fd = -1;  // number of the guest_memfd in the first process

  // Of the latest hop, CLOCK_MONOTONIC ns.
  uint64_t requested_ns = 0;
  uint64_t stopped_ns = 0;
  uint64_t saved_ns = 0;
  uint64_t restored_ns = 0;
  uint64_t entering_ns[kFloorMaxVcpus] = {};

  FloorVmState vm = {};
  FloorVcpuState vcpus[kFloorMaxVcpus] = {};
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_FLOOR_SHARED_H_
