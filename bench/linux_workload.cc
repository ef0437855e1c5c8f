// SPDX-License-Identifier: Apache-2.0
//
// Watches a Linux guest of //bench/linux_guest that something else has started, and judges it:
// under another VMM, without moves. What it measures then is what a machine does to a guest that
// nobody moves.
#include <stdio.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "bench/linux_guest/host/judge.h"
#include "bench/linux_guest/host/report.h"
#include "bench/linux_guest/host/session.h"
#include "bench/terminal.h"
#include "tests/harness/console_client.h"

namespace rehome::bench {
namespace {

using Clock = std::chrono::steady_clock;
using linux_guest::Session;

// For the console's socket to appear.
constexpr std::chrono::milliseconds kAttachTimeout{10'000};
int Watch(const std::string& console_path, const linux_guest::SessionOptions& options,
          std::chrono::seconds duration, bool json) {
  absl::StatusOr<harness::ConsoleClient> console =
      harness::ConsoleClient::Attach(console_path, kAttachTimeout);
  absl::StatusOr<std::unique_ptr<Session>> session =
      console.ok() ? Session::Start(*std::move(console), options)
                   : absl::StatusOr<std::unique_ptr<Session>>(console.status());
  if (!session.ok()) {
    fprintf(stderr, "linux_workload: %s\n", std::string(session.status().message()).c_str());
    return 1;
  }
  // The first half stands for the time before the first move.
  const Clock::time_point start = Clock::now();
  bool second_half = false;
  for (int looks = 0; !second_half || Clock::now() < start + duration; ++looks) {
    if (!second_half && looks >= 2 && Clock::now() >= start + duration / 2) {
      (*session)->BeginHops(0);
      second_half = true;
    }
    if (const absl::Status status = (*session)->Look(); !status.ok()) {
      (*session)->BlameHop(std::string(status.message()));
      break;
    }
  }
  const linux_guest::Evidence evidence = (*session)->Finish();
  const std::vector<linux_guest::Verdict> verdicts = linux_guest::Judge(evidence);
  for (const std::string& line : linux_guest::VerdictLines(Style::ForStdout(), verdicts)) {
    printf("%s\n", line.c_str());
  }
  if (json) printf("%s\n", linux_guest::ToJson(evidence, verdicts).dump().c_str());
  return linux_guest::AllKept(verdicts) ? 0 : 1;
}

int Main(int argc, char** argv) {
  linux_guest::SessionOptions options = {.address = "127.0.0.1"};
  std::string console_path;
  int seconds = 20;
  bool json = false;
  CLI::App app("Watch a Linux guest that nobody moves, and judge it");
  app.add_option("--address", options.address, "of the guest")->capture_default_str();
  app.add_option("--console", console_path, "UNIX socket of its serial console")->required();
  app.add_option("--disk", options.disk_path, "the file behind its disk, zero before it booted")
      ->required();
  app.add_option("--seconds", seconds)->check(CLI::Range(1, 86400))->capture_default_str();
  app.add_option("--stream-rate", options.echo.bytes_per_second, "bytes per second, at most")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  app.add_flag("--json", json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);
  return Watch(console_path, options, std::chrono::seconds(seconds), json);
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
