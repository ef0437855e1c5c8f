// SPDX-License-Identifier: Apache-2.0
//
// Somebody who sits at a guest's console all the time and counts its heartbeats.
#ifndef REHOME_TESTS_HEARTBEATS_H_
#define REHOME_TESTS_HEARTBEATS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/harness/console_client.h"

namespace rehome {

// Not thread-safe.
class Heartbeats {
 public:
  // Returns once the first heartbeat was read; from then on every one is expected, once.
  static absl::StatusOr<Heartbeats> Attach(const std::string& console_path,
                                           std::chrono::milliseconds timeout);

  // Reads `count` more. DATA_LOSS if one is missing or comes twice, or if the guest counts errors;
  // errors of the console.
  absl::Status Follow(int count, std::chrono::milliseconds timeout);

  // Types `text` and follows the heartbeats until the guest has echoed all of it, in order and
  // nothing else.
  absl::Status TypeAndAwaitEcho(const std::string& text, std::chrono::milliseconds timeout);

  uint64_t last() const { return last_; }

 private:
  explicit Heartbeats(harness::ConsoleClient console) : console_(std::move(console)) {}
  absl::Status ReadOne(std::chrono::milliseconds timeout);

  harness::ConsoleClient console_;
  uint64_t last_ = 0;
  std::string echo_;  // what came in between
};

}  // namespace rehome

#endif  // REHOME_TESTS_HEARTBEATS_H_
