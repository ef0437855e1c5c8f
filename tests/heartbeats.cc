// SPDX-License-Identifier: Apache-2.0
#include "tests/heartbeats.h"

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace rehome {
namespace {

constexpr char kHeartbeat[] = "heartbeat ";

}  // namespace

absl::StatusOr<Heartbeats> Heartbeats::Attach(const std::string& console_path,
                                              std::chrono::milliseconds timeout) {
  absl::StatusOr<harness::ConsoleClient> console =
      harness::ConsoleClient::Attach(console_path, timeout);
  if (!console.ok()) return console.status();
  Heartbeats heartbeats(*std::move(console));
  // Attached in the middle of a line, as a rule: the first whole one counts.
  const absl::StatusOr<std::string> partial = heartbeats.console_.ReadLine(timeout);
  if (!partial.ok()) return partial.status();
  absl::Status status = heartbeats.ReadOne(timeout);
  if (!status.ok()) return status;
  return heartbeats;
}

// One line: "[echo of what was typed]heartbeat N steps S errors E".
absl::Status Heartbeats::ReadOne(std::chrono::milliseconds timeout) {
  const absl::StatusOr<std::string> line = console_.ReadLine(timeout);
  if (!line.ok()) return line.status();
  const size_t at = line->find(kHeartbeat);
  unsigned long long number = 0, steps = 0, errors = 0;
  int end = 0;
  if (at == std::string::npos ||
      std::sscanf(line->c_str() + at, "heartbeat %llu steps %llu errors %llu%n", &number, &steps,
                  &errors, &end) != 3 ||
      at + static_cast<size_t>(end) != line->size()) {
    return absl::DataLossError(absl::StrCat("no heartbeat: \"", *line, "\" after ", last_));
  }
  if (last_ != 0 && number != last_ + 1) {
    return absl::DataLossError(absl::StrCat("heartbeat ", number, " after ", last_));
  }
  if (errors != 0) return absl::DataLossError("the guest counts errors: " + *line);
  echo_ += line->substr(0, at);
  last_ = number;
  return absl::OkStatus();
}

absl::Status Heartbeats::Follow(int count, std::chrono::milliseconds timeout) {
  absl::Status status;
  for (int i = 0; i < count && status.ok(); ++i) status = ReadOne(timeout);
  return status;
}

absl::Status Heartbeats::TypeAndAwaitEcho(const std::string& text,
                                          std::chrono::milliseconds timeout) {
  echo_.clear();
  absl::Status status = console_.Type(text);
  while (status.ok() && echo_ != text) {
    if (!text.starts_with(echo_)) {
      return absl::DataLossError(absl::StrCat("echo of \"", text, "\": \"", echo_, "\""));
    }
    status = ReadOne(timeout);
  }
  return status;
}

}  // namespace rehome
