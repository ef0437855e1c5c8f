// SPDX-License-Identifier: Apache-2.0
//
// A person at the guest's serial console: attaches to the VMM's UNIX socket once and stays there
// while the guest changes process.
#ifndef REHOME_TESTS_HARNESS_CONSOLE_CLIENT_H_
#define REHOME_TESTS_HARNESS_CONSOLE_CLIENT_H_

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::harness {

// Not thread-safe.
class ConsoleClient {
 public:
  static absl::StatusOr<ConsoleClient> Attach(const std::string& socket_path,
                                              std::chrono::milliseconds timeout);

  absl::Status Type(const std::string& text);
  // The next whole line, without its line end. DEADLINE_EXCEEDED, or UNAVAILABLE when the other end
  // hung up.
  absl::StatusOr<std::string> ReadLine(std::chrono::milliseconds timeout);
  // Reads lines until one contains `text`.
  absl::StatusOr<std::string> ReadUntil(const std::string& text, std::chrono::milliseconds timeout);

 private:
  UniqueFd socket_;
  std::string unread_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_CONSOLE_CLIENT_H_
