// SPDX-License-Identifier: Apache-2.0
//
// What a daemon costs while nothing moves: its memory when idle and for each registered VM, and how
// long `rehome vm list` takes, from exec to exit, with few and with many VMs. The VMs are
// connections of this process that speak the agents' wire (bench/idle_vms.h).
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/host_info.h"
#include "bench/idle_vms.h"
#include "bench/many_vms.h"
#include "bench/percentile.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/host_under_test.h"
#include "tests/harness/proc.h"
#include "tests/harness/process.h"

namespace rehome::bench {
namespace {

using harness::HostUnderTest;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kListTimeout{60'000};
// What the project promises (the README says so).
constexpr double kMaxIdleMib = 30;
constexpr double kMaxPerVmKib = 64;
constexpr double kMaxListMs = 50;

struct Options {
  int vms = 1000;
  int runs = 50;
  bool json = false;
};

class DaemonBench {
 public:
  explicit DaemonBench(const Options& options) : options_(options) {}

  void Run() {
    host_ = Check(HostUnderTest::Start({.kernel = "sim"}), "start");
    // The first call of a server pays for what all others use; one that never had a call is no
    // daemon that anybody runs.
    MeasureList(0, 1);
    idle_bytes_ = Bytes("VmRSS");
    idle_private_bytes_ = Bytes("RssAnon");
    for (const int vms : {1, 100, 1000}) {
      if (vms > options_.vms) break;
      // Without what listing them costs the daemon, which is not for each VM.
      const auto before = static_cast<int64_t>(Bytes("VmRSS"));
      Check(idle_.GrowTo(host_->agent_socket(), vms), "register");
      registered_bytes_ += static_cast<int64_t>(Bytes("VmRSS")) - before;
      lists_[vms] = MeasureList(vms, options_.runs);
    }
    after_lists_bytes_ = Bytes("VmRSS");
  }

  double idle_mib() const { return static_cast<double>(idle_bytes_) / (1 << 20); }
  double per_vm_kib() const {
    return static_cast<double>(registered_bytes_) / 1024 / static_cast<double>(idle_.size());
  }

  void Print(const Style& style) const {
    const auto line = [&style](const char* what, const std::string& value, const std::string& limit,
                               bool kept) {
      printf("  %-34s %12s   %s %s\n", what, value.c_str(),
             (kept ? style.Passed() : style.Failed()).c_str(), limit.c_str());
    };
    printf("%s\n\n", MachineLine().c_str());
    line("daemon, idle", absl::StrFormat("%.1f MiB", idle_mib()), "under 30 MiB",
         idle_mib() < kMaxIdleMib);
    printf("  %-34s %12s\n", "  of it private",
           FormatBytes(static_cast<double>(idle_private_bytes_)).c_str());
    line(absl::StrFormat("each of %u registered VMs", idle_.size()).c_str(),
         absl::StrFormat("%.1f KiB", per_vm_kib()), "under 64 KiB", per_vm_kib() < kMaxPerVmKib);
    printf("  %-34s %12s\n", "daemon after all that",
           FormatBytes(static_cast<double>(after_lists_bytes_)).c_str());
    for (const auto& [vms, summary] : lists_) {
      line(absl::StrCat("rehome vm list, ", vms, vms == 1 ? " VM" : " VMs").c_str(),
           absl::StrFormat("%.1f ms", summary.p50),
           absl::StrFormat("under 50 ms  (p99 %.1f, max %.1f)", summary.p99, summary.max),
           summary.p50 < kMaxListMs);
    }
    printf("\n");
  }

  nlohmann::ordered_json Json() const {
    nlohmann::ordered_json lists;
    for (const auto& [vms, summary] : lists_) {
      lists[absl::StrCat(vms)] = {{"p50", summary.p50}, {"p99", summary.p99}, {"max", summary.max}};
    }
    return {{"rss_idle_mib", idle_mib()},
            {"rss_idle_private_mib", static_cast<double>(idle_private_bytes_) / (1 << 20)},
            {"vms", idle_.size()},
            {"rss_per_vm_kib", per_vm_kib()},
            {"rss_after_mib", static_cast<double>(after_lists_bytes_) / (1 << 20)},
            {"runs", options_.runs},
            {"vm_list_ms", lists},
            {"load", LoadAverage()}};
  }

 private:
  uint64_t Bytes(const char* field) const {
    return Check(harness::StatusBytes(host_->daemon().pid(), field), field);
  }

  // Times in ms. Each run must have listed exactly `vms`.
  Summary MeasureList(int vms, int runs) {
    std::vector<double> times;
    const std::string output = host_->directory() + "/list.json";
    for (int i = 0; i < runs; ++i) {
      std::ofstream(output, std::ios::trunc);
      const Clock::time_point start = Clock::now();
      harness::Process list = Check(
          harness::Process::Start({.argv = {harness::BinaryPath("client/cli/rehome"), "--socket",
                                            host_->api_socket(), "vm", "list", "--json"},
                                   .log_path = output}),
          "rehome vm list");
      const int status = Check(list.WaitExit(kListTimeout), "rehome vm list");
      const std::chrono::duration<double, std::milli> took = Clock::now() - start;
      times.push_back(took.count());
      std::ifstream file(output);
      const auto answer = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !answer.is_object() ||
          answer.value("virtualMachines", nlohmann::json::array()).size() !=
              static_cast<size_t>(vms)) {
        fprintf(stderr, "daemon bench: rehome vm list did not list %d VMs\n", vms);
        exit(1);
      }
    }
    return Summarize(std::move(times));
  }

  const Options& options_;
  std::unique_ptr<HostUnderTest> host_;
  IdleVms idle_;
  uint64_t idle_bytes_ = 0;
  uint64_t idle_private_bytes_ = 0;
  int64_t registered_bytes_ = 0;  // by which registering all of them grew the daemon
  uint64_t after_lists_bytes_ = 0;
  std::map<int, Summary> lists_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("What an idle daemon costs: memory, and the time of rehome vm list");
  app.add_option("--vms", options.vms, "at most so many")->check(CLI::Range(1, 1000));
  app.add_option("--runs", options.runs, "of rehome vm list")->check(CLI::Range(1, 10000));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  RaiseDescriptorLimit(options.vms);
  DaemonBench bench(options);
  bench.Run();
  bench.Print(Style::ForStdout());
  if (options.json) printf("%s\n", bench.Json().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
