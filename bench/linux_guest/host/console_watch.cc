// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/console_watch.h"

#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/linux_guest/console_line.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

// How long what is typed may wait for the thread, which waits for lines.
constexpr std::chrono::milliseconds kTurn{50};
constexpr size_t kTailBytes = 4096;

// Takes the prefix off. False if it is not there.
bool Consume(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

void ConsoleLog::Blame(const std::string& fault) {
  if (result_.first_fault.empty()) result_.first_fault = fault;
}

void ConsoleLog::Add(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  tail_ += std::string(line) + "\n";
  if (tail_.size() > 2 * kTailBytes) tail_.erase(0, tail_.size() - kTailBytes);
  std::string_view said = line;
  const bool ours = Consume(said, kConsolePrefix);
  if (ours && Consume(said, "failed ")) {
    if (failed_.empty()) failed_ = said;
  } else if (ours && Consume(said, "ready ")) {
    if (result_.run != 0) Blame("the guest has booted again");
    std::from_chars(said.data(), said.data() + said.size(), result_.run, 16);
  } else if (ours && Consume(said, "pong ")) {
    if (said != expected_pong_) return Blame("an answer that is not due: " + std::string(said));
    expected_pong_.clear();
    ++result_.pongs;
  } else if (ours && said.starts_with("tick ")) {
    AddTick(said);
  } else if (result_.run != 0) {
    // Before "ready" the kernel has the console.
    ++result_.damaged;
    Blame("a damaged line: " + std::string(line));
  }
}

void ConsoleLog::AddTick(std::string_view said) {
  const std::optional<Tick> tick = ParseTick(said);
  if (!tick) {
    ++result_.damaged;
    return Blame("a damaged line: " + std::string(said));
  }
  if (result_.ticks == 0) {
    result_.first_tick = tick->number;
  } else if (tick->number <= result_.last_tick) {
    ++result_.again;
    return Blame(absl::StrCat("tick ", tick->number, " after tick ", result_.last_tick));
  } else if (tick->number != result_.last_tick + 1) {
    result_.missing += tick->number - result_.last_tick - 1;
    Blame(absl::StrCat("tick ", tick->number, " after tick ", result_.last_tick));
  }
  if (tick->mono_ns <= last_mono_ns_) {
    Blame(absl::StrCat("the clock went back at tick ", tick->number));
  }
  ++result_.ticks;
  result_.last_tick = tick->number;
  last_mono_ns_ = tick->mono_ns;
}

ConsoleWatch::ConsoleWatch(harness::ConsoleClient console)
    : console_(std::move(console)), thread_([this] { Main(); }) {}

ConsoleWatch::~ConsoleWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  thread_.join();
}

void ConsoleWatch::Main() {
  for (;;) {
    std::string typing;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stop_) return;
      typing = std::exchange(typing_, "");
    }
    absl::Status status;
    if (!typing.empty()) status = console_.Type(typing);
    const absl::StatusOr<std::string> line =
        status.ok() ? console_.ReadLine(kTurn) : absl::StatusOr<std::string>(status);
    if (absl::IsDeadlineExceeded(line.status())) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (line.ok()) {
      log_.Add(*line);
    } else {
      log_.HungUp(std::string(line.status().message()));
    }
    changed_.notify_all();
    if (!line.ok()) return;
  }
}

ConsoleLog ConsoleWatch::log() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return log_;
}

bool ConsoleWatch::Await(std::chrono::milliseconds timeout,
                         const std::function<bool(const ConsoleLog&)>& enough) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return enough(log_) || !log_.result().hung_up.empty(); });
  return enough(log_);
}

bool ConsoleWatch::Ping(const std::string& text, std::chrono::milliseconds timeout) {
  uint64_t before = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    before = log_.result().pongs;
    log_.ExpectPong(text);
    typing_ += "ping " + text + "\n";
  }
  return Await(timeout, [&](const ConsoleLog& log) { return log.result().pongs > before; });
}

}  // namespace rehome::linux_guest
