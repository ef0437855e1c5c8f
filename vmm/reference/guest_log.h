// SPDX-License-Identifier: Apache-2.0
//
// Log lines that the guest can cause as often as it likes: whoever runs a hostile guest must not
// have to store what it makes the VMM say.
#ifndef REHOME_VMM_REFERENCE_GUEST_LOG_H_
#define REHOME_VMM_REFERENCE_GUEST_LOG_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "kvmglue/rate_limit.h"
#include "vmm/reference/log.h"

namespace rehome {

// Of one VM, all its devices together. A driver that is broken is understood from its first lines;
// at 100 bytes a line this is 50 MB a day at most.
inline constexpr uint32_t kGuestLogLines = 5;
inline constexpr std::chrono::seconds kGuestLogWindow{1};

// Thread-safe.
class GuestLog {
 public:
  using Sink = std::function<void(const std::string& line)>;
  using Clock = std::chrono::steady_clock;

  explicit GuestLog(Sink sink = LogLine, std::function<Clock::time_point()> now = Clock::now);
  // Says what was left out and has not been said.
  ~GuestLog();
  GuestLog(const GuestLog&) = delete;
  GuestLog& operator=(const GuestLog&) = delete;

  // Writes the line, or counts it if kGuestLogLines were written in this window. The first line
  // after some were left out comes after one that says how many.
  void Line(const std::string& line);

 private:
  // REQUIRES: mutex_.
  void TellLeftOut(uint64_t count);

  const Sink sink_;
  const std::function<Clock::time_point()> now_;
  std::mutex mutex_;
  RateLimit limit_{kGuestLogLines, kGuestLogWindow};  // guarded by mutex_
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_LOG_H_
