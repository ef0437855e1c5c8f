// SPDX-License-Identifier: Apache-2.0
//
// Watch a running guest leave one VMM process and go on in another, and see what is proven about
// it. Exits with 1 if anything that was said is not so.
#include <stdio.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "bench/demo_guest.h"
#include "bench/demo_options.h"
#include "bench/demo_report.h"
#include "bench/demo_result.h"
#include "bench/terminal.h"
#include "kvmglue/capabilities.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {
namespace {

// More hops than this are not for reading: one line of progress instead.
constexpr int kMaxReadableHops = 20;
// Where standard output is no terminal, a line of progress each so many hops.
constexpr int kProgressHops = 100;

void Print(const Lines& lines) {
  for (const std::string& line : lines) printf("%s\n", line.c_str());
  fflush(stdout);
}

class Demo {
 public:
  Demo(const DemoOptions& options, const DemoPlan& plan)
      : options_(options), plan_(plan), style_(Style::ForStdout()) {}

  int Run() {
    absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host =
        harness::HostUnderTest::Start({.kernel = plan_.backend});
    if (!host.ok()) return Fail("the daemon does not start", host.status(), nullptr);
    DemoGuest guest(**host, options_, plan_);
    if (absl::Status status = guest.Start(); !status.ok()) {
      return Fail("the guest does not start", status, host->get());
    }
    Print(HeaderLines(style_, options_, plan_, guest.vmm()));
    for (int number = 1; number <= options_.hops; ++number) {
      const absl::StatusOr<HopFacts> facts = guest.Hop(number);
      if (!facts.ok()) {
        return Fail("hop " + std::to_string(number), facts.status(), host->get());
      }
      result_.Add(*facts);
      Show(*facts);
      if (!AllHold(ClaimsOf(*facts))) break;
    }
    result_.AddLeftovers(guest.FindLeftovers());
    result_.AddLeftovers(guest.ShutDown());
    Print(SummaryLines(style_, result_));
    if (options_.json) printf("%s\n", result_.ToJson(options_, plan_).dump().c_str());
    return result_.good() ? 0 : 1;
  }

 private:
  void Show(const HopFacts& facts) {
    const bool holds = AllHold(ClaimsOf(facts));
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    if (options_.hops <= kMaxReadableHops || !holds) {
      Print(HopLines(style_, options_.hops, facts));
    } else if (terminal) {
      printf("\r%s", PadRight(ProgressLine(options_.hops, facts), kTerminalColumns - 1).c_str());
      if (facts.number == options_.hops) printf("\n");
      fflush(stdout);
    } else if (facts.number % kProgressHops == 0) {
      Print({ProgressLine(options_.hops, facts)});
    }
  }

  // The logs are in the temporary directory that goes with the host, so they are shown here.
  int Fail(const std::string& what, const absl::Status& status, harness::HostUnderTest* host) {
    fflush(stdout);
    fprintf(stderr, "demo: %s: %s\n", what.c_str(), std::string(status.message()).c_str());
    if (host != nullptr) {
      fprintf(stderr, "--- rehomed\n%s%s", host->DaemonLog().c_str(), host->VmmLogs().c_str());
    }
    return 1;
  }

  const DemoOptions& options_;
  const DemoPlan& plan_;
  const Style style_;
  DemoResult result_;
};

int Main(int argc, char** argv) {
  DemoOptions options;
  CLI::App app("Watch a running guest move from one VMM process to the next");
  app.add_option("--backend", options.backend, "default: kvm where /dev/kvm works, else sim")
      ->check(CLI::IsMember({"kvm", "sim"}));
  app.add_option("--vm-type", options.vm_type, "default: default on kvm, sw-protected on sim")
      ->check(CLI::IsMember({"default", "sw-protected", "sev", "sev-es", "snp", "tdx"}));
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--memory", options.memory_mib, "MiB")
      ->check(CLI::Range(8, 1 << 16))
      ->capture_default_str();
  app.add_option("--hops", options.hops)->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--fence", options.fence,
                 "prove the old VMM stopped before the guest goes on, or after (VM types without "
                 "a kernel fence; default: before)")
      ->check(CLI::IsMember({"before", "after"}));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  const DemoPlan plan = PlanDemo(options, ProbeHost(*OpenRealKvm(), LinkAbi()));
  return Demo(options, plan).Run();
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
