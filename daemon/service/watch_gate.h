// SPDX-License-Identifier: Apache-2.0
//
// Bounds the watch streams and ends them when the daemon stops. Each stream occupies a thread.
#ifndef REHOME_DAEMON_SERVICE_WATCH_GATE_H_
#define REHOME_DAEMON_SERVICE_WATCH_GATE_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"

namespace rehome {

// A control plane needs one or two streams, a person one. Each costs a thread (about 100 KiB with
// what gRPC keeps for it).
inline constexpr size_t kMaxWatchStreams = 64;

// A silent stream says that it is alive this often; half of what proxies and NATs wait.
inline constexpr std::chrono::milliseconds kHeartbeatInterval = std::chrono::seconds(10);

// How long a stream waits in one go for something to report. The registry can be asked to wait, but
// not to stop waiting, so this bounds how late a stream notices that its client left or that the
// daemon stops.
inline constexpr std::chrono::milliseconds kWatchPoll = std::chrono::milliseconds(250);

// Thread-safe.
class WatchGate {
 public:
  // Counts as a stream for as long as it lives. Must not outlive the gate.
  class Pass {
   public:
    Pass(Pass&&) = default;
    Pass& operator=(Pass&&) = default;

   private:
    friend class WatchGate;
    struct Leave {
      void operator()(WatchGate* gate) const { gate->Exit(); }
    };
    explicit Pass(WatchGate* gate) : gate_(gate) {}
    std::unique_ptr<WatchGate, Leave> gate_;
  };

  // Tests make both smaller.
  explicit WatchGate(size_t max_streams = kMaxWatchStreams,
                     std::chrono::milliseconds heartbeat_interval = kHeartbeatInterval)
      : max_streams_(max_streams), heartbeat_interval_(heartbeat_interval) {}

  std::chrono::milliseconds heartbeat_interval() const { return heartbeat_interval_; }

  // RESOURCE_EXHAUSTED / TOO_MANY_WATCHES, UNAVAILABLE / SHUTTING_DOWN.
  absl::StatusOr<Pass> Enter();

  // From now on Enter() fails and closed() is true; streams end within kWatchPoll.
  void Close();
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // What a stream ends with when closed().
  static absl::Status ClosedError();

 private:
  void Exit();

  const size_t max_streams_;
  const std::chrono::milliseconds heartbeat_interval_;
  std::atomic<bool> closed_ = false;
  std::mutex mutex_;
  size_t streams_ = 0;  // guarded by mutex_
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_WATCH_GATE_H_
