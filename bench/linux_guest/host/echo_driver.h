// SPDX-License-Identifier: Apache-2.0
//
// Sends a stream through the guest all the time and compares what comes back.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_ECHO_DRIVER_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_ECHO_DRIVER_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "bench/linux_guest/host/evidence.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {

struct EchoOptions {
  uint64_t seed = 1;
  // At most so many on average: a stream that goes as fast as it can leaves an emulated machine no
  // time for anything else.
  uint64_t bytes_per_second = 1 << 20;
};

// Thread-safe.
class EchoDriver {
 public:
  // `socket` is a stream whose other end is ServeEcho() of the guest.
  static std::unique_ptr<EchoDriver> Start(UniqueFd socket, const EchoOptions& options);
  // The stream is cut off if Stop() was not called.
  ~EchoDriver();

  // Bytes that came back and were right.
  uint64_t compared() const { return compared_; }
  // False if there were not more than `bytes` within `timeout`, or the stream has ended.
  bool AwaitBeyond(uint64_t bytes, std::chrono::milliseconds timeout);

  // Ends the stream after a whole frame, and waits for all of it to come back. Once only.
  EchoResult Stop(std::chrono::milliseconds timeout);

 private:
  EchoDriver(UniqueFd socket, const EchoOptions& options);
  void SendAll();
  void ReceiveAll();
  bool SendFrame(std::span<const std::byte> frame);
  void Blame(const std::string& fault, int error);
  void Join();

  const UniqueFd socket_;
  const EchoOptions options_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> compared_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  EchoResult result_;          // guarded by mutex_
  bool received_all_ = false;  // guarded by mutex_: the receiver has returned
  std::thread sender_;
  std::thread receiver_;
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_ECHO_DRIVER_H_
