// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_RATE_LIMIT_H_
#define REHOME_KVMGLUE_RATE_LIMIT_H_

#include <chrono>
#include <cstdint>
#include <utility>

namespace rehome {

// Lets `burst` things pass in each window of `window`; counts the others. Not thread-safe.
class RateLimit {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  RateLimit(uint32_t burst, std::chrono::steady_clock::duration window)
      : burst_(burst), window_(window) {}

  // Whether one may pass now. If so, *suppressed is how many were held back since the last one.
  bool Allow(TimePoint now, uint64_t* suppressed) {
    if (passed_ == 0 || now - window_begin_ >= window_) {
      passed_ = 0;
      window_begin_ = now;
    }
    if (passed_ == burst_) {
      ++suppressed_;
      return false;
    }
    ++passed_;
    *suppressed = TakeSuppressed();
    return true;
  }

  // How many were held back since this or Allow() last said so.
  uint64_t TakeSuppressed() { return std::exchange(suppressed_, 0); }

 private:
  uint32_t burst_;
  std::chrono::steady_clock::duration window_;
  TimePoint window_begin_{};
  uint32_t passed_ = 0;
  uint64_t suppressed_ = 0;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_RATE_LIMIT_H_
