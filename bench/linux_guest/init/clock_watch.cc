// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/clock_watch.h"

#include <sched.h>
#include <time.h>

#include <chrono>
#include <string>
#include <thread>

namespace rehome::linux_guest {
namespace {

constexpr int kClockIds[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
constexpr const char* kClockNames[] = {"mono", "boot", "real"};

// Often enough to see each move from outside and from inside it; a timer interrupt each.
constexpr std::chrono::milliseconds kPeriod{4};

void RaiseTo(Counter& counter, uint64_t value) {
  uint64_t known = counter;
  while (known < value && !counter.compare_exchange_weak(known, value)) {
  }
}

}  // namespace

uint64_t NowNs(int clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

bool PinTo(uint32_t vcpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(vcpu, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

void HighWater::See(uint64_t before, uint64_t now) {
  if (now < before) {
    ++backwards_;
    RaiseTo(worst_ns_, before - now);
  }
  RaiseTo(latest_, now);
}

void ClockWatch::Look(uint64_t& last_look) {
  for (size_t i = 0; i < kClocks; ++i) {
    const uint64_t before = clocks_[i].latest();
    clocks_[i].See(before, NowNs(kClockIds[i]));
  }
  const uint64_t now = NowNs(CLOCK_MONOTONIC);
  if (last_look != 0 && now > last_look) RaiseTo(gap_ns_, now - last_look);
  last_look = now;
  ++looks_;
}

void ClockWatch::Start(uint32_t vcpus) {
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    std::thread([this, vcpu] {
      PinTo(vcpu);
      for (uint64_t last_look = 0;;) {
        Look(last_look);
        std::this_thread::sleep_for(kPeriod);
      }
    }).detach();
  }
}

void ClockWatch::Report(GuestAccount& account) const {
  account.Set("clock_looks", looks_);
  account.Set("clock_gap_ns", gap_ns_);
  for (size_t i = 0; i < kClocks; ++i) {
    const std::string name = std::string("clock_") + kClockNames[i];
    account.Set(name + "_backwards", clocks_[i].backwards());
    account.Set(name + "_worst_ns", clocks_[i].worst_ns());
  }
}

}  // namespace rehome::linux_guest
