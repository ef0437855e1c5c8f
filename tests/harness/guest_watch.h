// SPDX-License-Identifier: Apache-2.0
//
// Watches a guest all the time while processes around it die: how long it stood still, and whether
// two processes ever ran it.
#ifndef REHOME_TESTS_HARNESS_GUEST_WATCH_H_
#define REHOME_TESTS_HARNESS_GUEST_WATCH_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/harness/guest_probe.h"

namespace rehome::harness {

// Thread-safe.
class GuestWatch {
 public:
  // `pid` runs the guest. Samples in a thread of its own until it is destroyed.
  static absl::StatusOr<std::unique_ptr<GuestWatch>> Start(pid_t pid);
  ~GuestWatch();
  GuestWatch(const GuestWatch&) = delete;
  GuestWatch& operator=(const GuestWatch&) = delete;

  // Another process that may run it, now or later. The last one added that can be looked into shows
  // how far the guest is: the memory is the same.
  void AddProcess(pid_t pid);

  // Steps of all vCPUs, as last seen.
  uint64_t steps() const;
  // Whether the guest goes on from where it is now, within `timeout`.
  bool AwaitProgress(std::chrono::milliseconds timeout);
  // The longest time between two looks at the same number of steps since Start() or the last
  // ResetStandstill(); one that still lasts counts.
  std::chrono::milliseconds longest_standstill() const;
  void ResetStandstill();
  // What must never be seen, as sentences: a process ran the guest after one that came later had;
  // the guest went back. On the simulated kernel only the latter.
  std::vector<std::string> violations() const;

 private:
  struct Runner {
    pid_t pid = 0;
    uint64_t guest_ticks = 0;  // of CPU time in guest mode, as last seen
    bool first_look = true;
    bool left = false;  // another has run the guest since
  };

  GuestWatch() = default;
  void Serve();
  void Look();
  void LookAtSteps();
  void LookAtRunners();

  std::atomic<bool> stop_ = false;
  mutable std::mutex mutex_;
  // All guarded by mutex_.
  std::vector<GuestProbe> probes_;
  std::vector<Runner> runners_;
  uint64_t steps_ = 0;
  std::chrono::steady_clock::time_point last_progress_;
  std::chrono::nanoseconds longest_{0};
  std::vector<std::string> violations_;
  std::thread thread_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_GUEST_WATCH_H_
