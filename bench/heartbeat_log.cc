// SPDX-License-Identifier: Apache-2.0
#include "bench/heartbeat_log.h"

#include <poll.h>

#include <cinttypes>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rehome::bench {
namespace {

// How long a destructor waits for the thread that reads.
constexpr std::chrono::milliseconds kReadTimeout{100};
constexpr int kLookMs = 2;

}  // namespace

std::optional<Heartbeat> ParseHeartbeat(std::string_view line) {
  Heartbeat beat;
  int end = 0;
  const std::string text(line);
  const int fields =
      sscanf(text.c_str(), "heartbeat %" SCNu64 " steps %" SCNu64 " errors %" SCNu64 "%n",
             &beat.number, &beat.steps, &beat.errors, &end);
  if (fields != 3 || static_cast<size_t>(end) != text.size()) return std::nullopt;
  return beat;
}

void HeartbeatLog::Blame(const std::string& what) {
  if (fault_.empty()) fault_ = what;
}

void HeartbeatLog::Add(std::string_view line) {
  const std::optional<Heartbeat> beat = ParseHeartbeat(line);
  if (!beat) {
    if (first_ != 0) {
      Blame(absl::StrCat("after heartbeat ", last_.number, " came '", std::string(line), "'"));
    }
    return;
  }
  if (first_ == 0) {
    first_ = beat->number;
  } else if (beat->number != last_.number + 1) {
    Blame(absl::StrCat("after heartbeat ", last_.number, " came heartbeat ", beat->number));
  } else if (beat->steps < last_.steps) {
    Blame(absl::StrCat("heartbeat ", beat->number, " has fewer steps than the one before"));
  }
  last_ = *beat;
}

ConsoleRecorder::ConsoleRecorder(harness::ConsoleClient console)
    : console_(std::move(console)), thread_([this] { Main(); }) {}

ConsoleRecorder::~ConsoleRecorder() {
  stop_ = true;
  thread_.join();
}

void ConsoleRecorder::Main() {
  while (!stop_ && !hung_up_) {
    const absl::StatusOr<std::string> line = console_.ReadLine(kReadTimeout);
    if (line.ok()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      log_.Add(*line);
    } else if (!absl::IsDeadlineExceeded(line.status())) {
      hung_up_ = true;
    }
  }
}

HeartbeatLog ConsoleRecorder::log() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return log_;
}

bool ConsoleRecorder::AwaitBeyond(uint64_t number, std::chrono::milliseconds timeout) const {
  for (int64_t waited = 0; log().last() <= number; waited += kLookMs) {
    if (waited > timeout.count() || hung_up_) return false;
    poll(nullptr, 0, kLookMs);
  }
  return true;
}

}  // namespace rehome::bench
