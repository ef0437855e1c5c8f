// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/session.h"

#include <sys/socket.h>
#include <time.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/linux_guest/host/disk_check.h"
#include "bench/linux_guest/host/progress.h"
#include "bench/linux_guest/host/tcp.h"
#include "bench/linux_guest/host/time_probe.h"
#include "bench/linux_guest/workload_abi.h"

namespace rehome::linux_guest {
namespace {

using Clock = std::chrono::steady_clock;

// The shortest exchange is the one that counts: the others waited for a processor. So many in any
// case, and more while none was short enough.
constexpr int kExchanges = 12;
constexpr int kMaxExchanges = 120;
constexpr uint64_t kGoodErrorNs = 100'000;

uint64_t NowNs(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

absl::Status SocketError(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("control connection: ", what, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::Start(harness::ConsoleClient console,
                                                        const SessionOptions& options) {
  std::unique_ptr<Session> session(new Session(std::move(console), options));
  absl::Status status = session->AwaitReady();
  if (status.ok()) status = session->Connect();
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(status.message(), "\n--- the console\n",
                                                    session->ConsoleTail()));
  }
  return session;
}

absl::Status Session::AwaitReady() {
  console_.Await(options_.boot_timeout, [](const ConsoleLog& log) {
    return log.result().run != 0 || !log.failed().empty();
  });
  const ConsoleLog log = console_.log();
  if (!log.failed().empty()) return absl::InternalError("the guest failed: " + log.failed());
  if (log.result().run == 0) {
    return absl::AbortedError(absl::StrCat(
        "the guest does not boot", log.result().hung_up.empty() ? " in time" : ", and has ended"));
  }
  return absl::OkStatus();
}

absl::Status Session::Connect() {
  absl::StatusOr<UniqueFd> control = ConnectTcp(options_.address, kControlPort, options_.timeout);
  if (!control.ok()) return control.status();
  SetSocketTimeout(control->borrow(), options_.timeout);
  control_ = *std::move(control);
  absl::StatusOr<UniqueFd> stream = ConnectTcp(options_.address, kEchoPort, options_.timeout);
  if (!stream.ok()) return stream.status();
  echo_ = EchoDriver::Start(*std::move(stream), options_.echo);
  absl::StatusOr<GuestAccount> first = AskAccount();
  if (!first.ok()) return first.status();
  evidence_.first = *std::move(first);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Session::Ask(const std::string& request) {
  const std::string whole = request + "\n";
  const int fd = control_.borrow().raw();
  absl::Status wrong;
  if (send(fd, whole.data(), whole.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(whole.size())) {
    wrong = SocketError(request);
  }
  std::string answer;
  while (wrong.ok() && (answer.empty() || answer.back() != '\n')) {
    char part[4096];
    const ssize_t count = recv(fd, part, sizeof(part), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = ECONNABORTED;
    if (count <= 0) {
      wrong = SocketError(request);
    } else {
      answer.append(part, static_cast<size_t>(count));
      if (answer.size() > kMaxControlLine) wrong = absl::InternalError("the answer has no end");
    }
  }
  if (!wrong.ok()) {
    if (evidence_.control_fault.empty()) evidence_.control_fault = std::string(wrong.message());
    return wrong;
  }
  answer.pop_back();
  return answer;
}

absl::StatusOr<GuestAccount> Session::AskAccount() {
  ++evidence_.account_requests;
  const absl::StatusOr<std::string> line = Ask("account");
  if (!line.ok()) return line.status();
  std::optional<GuestAccount> account = GuestAccount::Parse(*line);
  if (!account) return absl::InternalError("no account: " + *line);
  return *std::move(account);
}

absl::StatusOr<TimeSample> Session::AskTime() {
  ++evidence_.time_requests;
  const uint64_t asked = NowNs(CLOCK_REALTIME);
  const absl::StatusOr<std::string> line = Ask("time");
  const uint64_t answered = NowNs(CLOCK_REALTIME);
  if (!line.ok()) return line.status();
  const std::optional<GuestAccount> times = GuestAccount::Parse(*line);
  const std::optional<uint64_t> real = times ? times->Number("real") : std::nullopt;
  if (!real || answered < asked) return absl::InternalError("no time: " + *line);
  return SampleOf(asked, *real, answered, NowNs(CLOCK_MONOTONIC));
}

absl::Status Session::SampleTime() {
  std::optional<TimeSample> best;
  for (int i = 0; i < kExchanges || (i < kMaxExchanges && best->error > kGoodErrorNs); ++i) {
    const absl::StatusOr<TimeSample> sample = AskTime();
    if (!sample.ok()) return sample.status();
    if (!best || sample->error < best->error) best = *sample;
  }
  evidence_.times.push_back(*best);
  return absl::OkStatus();
}

absl::Status Session::Look() {
  const uint64_t bytes = echo_->compared();
  const uint64_t tick = console_.log().result().last_tick;
  absl::StatusOr<GuestAccount> before = AskAccount();
  if (!before.ok()) return before.status();
  if (absl::Status status = SampleTime(); !status.ok()) return status;
  if (!echo_->AwaitBeyond(bytes, options_.timeout)) {
    return absl::DeadlineExceededError("the stream stands still");
  }
  ++evidence_.pings;
  if (!console_.Ping(absl::StrCat(evidence_.pings), options_.timeout)) {
    return absl::DeadlineExceededError("the console does not answer");
  }
  const auto ticked = [&](const ConsoleLog& log) { return log.result().last_tick > tick; };
  if (!console_.Await(options_.timeout, ticked)) {
    return absl::DeadlineExceededError("the console is silent");
  }
  return AwaitWork(*before);
}

absl::Status Session::AwaitWork(const GuestAccount& before) {
  const Clock::time_point deadline = Clock::now() + options_.timeout;
  for (;;) {
    const absl::StatusOr<GuestAccount> now = AskAccount();
    if (!now.ok()) return now.status();
    const std::string still = WhatStandsStill(before, *now);
    if (still.empty()) return absl::OkStatus();
    if (Clock::now() >= deadline) return absl::DeadlineExceededError(still);
  }
}

void Session::BeginHops(uint64_t wanted) {
  evidence_.hops_wanted = wanted;
  evidence_.times_before_hops = evidence_.times.size();
}

void Session::BlameHop(const std::string& fault) {
  if (evidence_.hop_fault.empty()) evidence_.hop_fault = fault;
}

absl::StatusOr<uint64_t> Session::LongestGap() {
  const absl::StatusOr<GuestAccount> account = AskAccount();
  if (!account.ok()) return account.status();
  return account->Number("clock_gap_ns").value_or(0);
}

absl::Status Session::Mark() { return Ask("mark").status(); }

Evidence Session::Finish() {
  evidence_.echo = echo_->Stop(options_.timeout);
  absl::Status status = Ask("stop").status();
  if (status.ok()) {
    absl::StatusOr<GuestAccount> last = AskAccount();
    if (last.ok()) evidence_.last = *std::move(last);
  }
  const uint64_t ticks = evidence_.last.Number("console_ticks").value_or(0);
  console_.Await(options_.timeout,
                 [&](const ConsoleLog& log) { return log.result().last_tick >= ticks; });
  evidence_.console = console_.log().result();
  const absl::StatusOr<DiskResult> disk = CheckDisk(
      options_.disk_path, evidence_.console.run, evidence_.last.Number("disk_durable").value_or(0));
  if (disk.ok()) {
    evidence_.disk = *disk;
  } else {
    evidence_.disk = {.faults = 1, .first_fault = std::string(disk.status().message())};
  }
  return evidence_;
}

}  // namespace rehome::linux_guest
