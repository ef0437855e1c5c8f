// SPDX-License-Identifier: Apache-2.0
//
// Watches one guest from its boot to its rest, and gathers the evidence. Whoever moves the guest
// calls Look() before the first move and after each one.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_SESSION_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_SESSION_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/linux_guest/host/console_watch.h"
#include "bench/linux_guest/host/echo_driver.h"
#include "bench/linux_guest/host/evidence.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {

struct SessionOptions {
  std::string address;    // of the guest, IPv4
  std::string disk_path;  // the file behind its disk
  EchoOptions echo;
  // For each single thing that a guest that runs does. A minute only if something is broken, also
  // under two layers of emulation.
  std::chrono::milliseconds timeout{60'000};
  // From the attached console to the guest that says it is ready. A boot takes longer than anything
  // that comes after it.
  std::chrono::milliseconds boot_timeout{600'000};
};

// Not thread-safe.
class Session {
 public:
  // Waits for the guest to boot, and starts the stream. `console` was attached before it could be
  // ready. An error has the end of the console's text; ABORTED is a guest that has not said within
  // `boot_timeout` that it is ready, or whose VMM hung up before.
  static absl::StatusOr<std::unique_ptr<Session>> Start(harness::ConsoleClient console,
                                                        const SessionOptions& options);

  // Reads the guest's wall clock, and waits until each part of the guest has done something that it
  // had not done when Look() was called: a frame came back, a record became durable, a line came
  // over the console, something typed was answered, and the chain of every vCPU went on.
  // DEADLINE_EXCEEDED names the part that has not.
  absl::Status Look();
  // What was looked at so far was before the first move.
  void BeginHops(uint64_t wanted);
  void CountHop() { ++evidence_.hops_done; }
  void BlameHop(const std::string& fault);

  // The guest's longest gap since the last Mark(), nanoseconds.
  absl::StatusOr<uint64_t> LongestGap();
  absl::Status Mark();

  uint64_t bytes_compared() const { return echo_->compared(); }
  const TimeSample& last_time() const { return evidence_.times.back(); }

  // Lets everything in the guest come to rest, and reads the disk. Once only. What fails on the way
  // is in the evidence.
  Evidence Finish();

  std::string ConsoleTail() const { return console_.log().tail(); }

 private:
  Session(harness::ConsoleClient console, const SessionOptions& options)
      : options_(options), console_(std::move(console)) {}
  absl::Status AwaitReady();
  absl::Status Connect();
  absl::StatusOr<std::string> Ask(const std::string& request);
  absl::StatusOr<GuestAccount> AskAccount();
  absl::StatusOr<TimeSample> AskTime();
  absl::Status SampleTime();
  absl::Status AwaitWork(const GuestAccount& before);

  const SessionOptions options_;
  ConsoleWatch console_;
  UniqueFd control_;
  std::unique_ptr<EchoDriver> echo_;
  Evidence evidence_;
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_SESSION_H_
