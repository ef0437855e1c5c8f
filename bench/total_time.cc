// SPDX-License-Identifier: Apache-2.0
//
// How long a migration takes for whoever asks for one: `rehome migrate VM --to PROFILE --wait`,
// from exec to exit. Taken off is the target VMM's own start, from its launch until it has said
// HELLO: the migration's trace has that as the step LAUNCHING. The rest is command line, daemon,
// and what the agents do; building the target's VM and its page tables is part of it.
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/host_info.h"
#include "bench/many_vms.h"
#include "bench/percentile.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/guest_probe.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/process.h"

namespace rehome::bench {
namespace {

using harness::HostUnderTest;
using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr char kVmId[] = "total";
constexpr int kVmmVersion = 2;
constexpr char kLaunching[] = "LAUNCHING";
// A migration and what the machine may take beside it; none of it is waited for when all is well.
constexpr std::chrono::milliseconds kMigrateTimeout{120'000};
// From the fence's proof until the target has registered.
constexpr std::chrono::milliseconds kRegisterTimeout{60'000};
constexpr int kLookAgainMs = 1;
// The guest runs so long before it moves, as in the other benchmarks (bench/floor_side.h).
constexpr int kDwellMs = 20;
// Nothing is warm at the first.
constexpr int kWarmUpRuns = 1;

struct Options {
  std::string kernel = "kvm";
  uint32_t vcpus = 1;
  uint64_t memory_mib = 64;
  bool memfd = false;
  int runs = 50;
  bool json = false;
};

using Steps = std::vector<std::pair<std::string, double>>;  // milliseconds, in order

struct Sample {
  double total_ms = 0;
  Steps steps;
};

double LaunchingOf(const Steps& steps) {
  for (const auto& [name, ms] : steps) {
    if (name == kLaunching) return ms;
  }
  Check(absl::InternalError("the trace has no step LAUNCHING"), "trace");
  return 0;
}

class TotalTimeBench {
 public:
  explicit TotalTimeBench(const Options& options) : options_(options) {}

  void Run() {
    host_ = Check(HostUnderTest::Start({.kernel = options_.kernel}), "start");
    vmm_ = Check(host_->StartVmm({.vm_id = kVmId,
                                  .version = kVmmVersion,
                                  .memory_mib = options_.memory_mib,
                                  .vcpus = options_.vcpus,
                                  .arguments = {"--heartbeat-ms", "0", "--memory-kind",
                                                options_.memfd ? "memfd" : "auto"}}),
                 "start a VMM");
    pid_ = vmm_.process.pid();
    // On the simulated kernel nobody runs the guest, and its memory is not looked at.
    if (options_.kernel == "kvm") {
      const harness::GuestProbe guest = Check(harness::GuestProbe::Attach(pid_), "the guest");
      Check(guest.TouchAllPages(), "touch");
    }
    for (int run = 0; run < options_.runs + kWarmUpRuns; ++run) {
      Sample sample = MoveOnce();
      if (run >= kWarmUpRuns) samples_.push_back(std::move(sample));
    }
    Check(host_->StopVm(kVmId), "stop");
  }

  void Print(const Style& style) const {
    printf("%s, load %.1f\n\n", MachineLine().c_str(), LoadAverage());
    printf("  %u vCPU, %lu MiB, kernel %s, %zu migrations, p50 / p99 / max in ms\n", options_.vcpus,
           options_.memory_mib, options_.kernel.c_str(), samples_.size());
    const auto line = [](const std::string& what, const Summary& ms) {
      printf("  %-44s %8.1f %8.1f %8.1f\n", what.c_str(), ms.p50, ms.p99, ms.max);
    };
    line(style.Bold("rehome migrate --wait, from exec to exit    "), Total());
    line("  of it the target VMM's own start", TargetStart());
    line(style.Bold("without that                                "), WithoutStart());
    printf("\n  steps of the daemon, medians: ");
    for (const auto& [name, ms] : StepMedians()) printf(" %s %.1f", name.c_str(), ms);
    printf("\n\n");
  }

  ordered_json Json() const {
    const auto summary = [](const Summary& ms) {
      return ordered_json{{"p50", ms.p50}, {"p99", ms.p99}, {"max", ms.max}};
    };
    ordered_json steps = ordered_json::object();
    for (const auto& [name, ms] : StepMedians()) steps[name] = ms;
    return {{"kernel", options_.kernel},
            {"vcpus", options_.vcpus},
            {"memory_mib", options_.memory_mib},
            {"runs", samples_.size()},
            {"total_ms", summary(Total())},
            {"target_start_ms", summary(TargetStart())},
            {"without_start_ms", summary(WithoutStart())},
            {"steps_p50_ms", steps},
            {"load", LoadAverage()}};
  }

 private:
  Summary Total() const {
    std::vector<double> values;
    for (const Sample& sample : samples_) values.push_back(sample.total_ms);
    return Summarize(std::move(values));
  }
  Summary TargetStart() const {
    std::vector<double> values;
    for (const Sample& sample : samples_) values.push_back(LaunchingOf(sample.steps));
    return Summarize(std::move(values));
  }
  Summary WithoutStart() const {
    std::vector<double> values;
    for (const Sample& sample : samples_) {
      values.push_back(sample.total_ms - LaunchingOf(sample.steps));
    }
    return Summarize(std::move(values));
  }
  // Every migration goes through the same steps.
  Steps StepMedians() const {
    Steps medians;
    for (size_t i = 0; i < samples_.front().steps.size(); ++i) {
      std::vector<double> values;
      for (const Sample& sample : samples_) values.push_back(sample.steps.at(i).second);
      medians.emplace_back(samples_.front().steps[i].first, Summarize(std::move(values)).p50);
    }
    return medians;
  }

  Sample MoveOnce() {
    poll(nullptr, 0, kDwellMs);
    const std::string output = host_->directory() + "/migrate.json";
    std::ofstream(output, std::ios::trunc);
    const Clock::time_point start = Clock::now();
    harness::Process migrate = Check(
        harness::Process::Start({.argv = {harness::BinaryPath("client/cli/rehome"), "--socket",
                                          host_->api_socket(), "--json", "migrate", kVmId, "--to",
                                          harness::ProfileOfVersion(kVmmVersion), "--wait"},
                                 .log_path = output}),
        "rehome migrate");
    const int status = Check(migrate.WaitExit(kMigrateTimeout), "rehome migrate");
    const std::chrono::duration<double, std::milli> took = Clock::now() - start;
    std::ifstream file(output);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      Check(absl::InternalError(absl::StrCat("wait status ", status, ": ", text)),
            "rehome migrate");
    }
    AwaitRegistered();
    return {.total_ms = took.count(), .steps = StepsOf(MigrationIn(text))};
  }

  // The name in the record, which is one line among those of standard error.
  static std::string MigrationIn(const std::string& text) {
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      const auto record =
          nlohmann::json::parse(std::string(line), nullptr, /*allow_exceptions=*/false);
      if (record.is_object() && record.contains("name")) return record.value("name", "");
    }
    Check(absl::InternalError(text), "the output of rehome migrate");
    return "";
  }

  Steps StepsOf(const std::string& migration) {
    v1::GetMigrationTraceRequest request;
    request.set_name(migration + "/trace");
    const v1::MigrationTrace trace = Check(host_->client().GetMigrationTrace(request), "trace");
    Steps steps;
    for (const v1::MigrationTrace::Span& step : trace.steps()) {
      const int64_t ns = step.end_monotonic_ns() - step.begin_monotonic_ns();
      steps.emplace_back(step.name(), static_cast<double>(ns) / 1e6);
    }
    return steps;
  }

  // SUCCEEDED means that the fence is proven; the target registers in its own time, and the next
  // migration needs it to.
  void AwaitRegistered() {
    const Clock::time_point deadline = Clock::now() + kRegisterTimeout;
    while (true) {
      const absl::StatusOr<v1::VirtualMachine> vm = host_->GetVm(kVmId);
      if (vm.ok() && vm->process().pid() != pid_) {
        pid_ = vm->process().pid();
        return;
      }
      if (Clock::now() > deadline) Check(absl::DeadlineExceededError("no VM"), "register");
      poll(nullptr, 0, kLookAgainMs);
    }
  }

  const Options& options_;
  std::unique_ptr<HostUnderTest> host_;
  harness::StartedVmm vmm_;
  pid_t pid_ = 0;  // of the VMM that runs the guest now
  std::vector<Sample> samples_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("How long `rehome migrate --wait` takes, from exec to exit");
  app.add_option("--kernel", options.kernel, "kvm or sim")->check(CLI::IsMember({"kvm", "sim"}));
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, 16));
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--runs", options.runs)->check(CLI::Range(1, 10000));
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  TotalTimeBench bench(options);
  bench.Run();
  bench.Print(Style::ForStdout());
  if (options.json) printf("%s\n", bench.Json().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
