// SPDX-License-Identifier: Apache-2.0
//
// What a guest pays after it was moved: it reads every page of its memory, once, in a VM whose page
// tables are empty, whose host page tables are populated, and whose own page tables are warm too
// (vmm/reference/page_warmer.h). And what a round of a guest that works on all of its memory takes
// in the first second after the move, beside the second before it. In turns, so that what else the
// machine does hits all alike.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/first_second.h"
#include "bench/host_info.h"
#include "bench/percentile.h"
#include "bench/rehome_side.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/guest_probe.h"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {
namespace {

using harness::GuestProbe;
using harness::HostUnderTest;
using nlohmann::ordered_json;

constexpr char kVmId[] = "refill";
constexpr int kVmmVersion = 2;
constexpr std::chrono::milliseconds kGuestTimeout{120'000};
constexpr uint32_t kSecondVcpus[] = {1, 2};

struct Options {
  uint64_t memory_mib = 1024;
  bool memfd = false;
  int runs = 5;
  int second_runs = 3;
  bool json = false;
};

struct Way {
  const char* name;
  std::vector<std::string> target_arguments;
  std::vector<double> touch_ms, total_ms;
  std::vector<FirstSecond> first_seconds;  // as kSecondVcpus
};

[[noreturn]] void Fail(const absl::Status& status) {
  fprintf(stderr, "refill bench: %s\n", status.ToString().c_str());
  exit(1);
}

absl::StatusOr<GuestProbe> Attach(HostUnderTest& host) {
  const absl::StatusOr<v1::VirtualMachine> vm = host.GetVm(kVmId);
  if (!vm.ok()) return vm.status();
  return GuestProbe::Attach(vm->process().pid());
}

double SecondsOf(const google::protobuf::Timestamp& time) {
  return static_cast<double>(time.seconds()) + static_cast<double>(time.nanos()) * 1e-9;
}

// A guest of its own at a time: there is memory for one, and nobody else runs.
void RunOnce(Way& way, uint64_t memory_mib, bool memfd) {
  absl::StatusOr<std::unique_ptr<HostUnderTest>> host =
      HostUnderTest::Start({.kernel = "kvm", .target_arguments = way.target_arguments});
  if (!host.ok()) Fail(host.status());
  const absl::StatusOr<harness::StartedVmm> vmm = (*host)->StartVmm(
      {.vm_id = kVmId,
       .version = kVmmVersion,
       .memory_mib = memory_mib,
       .arguments = {"--heartbeat-ms", "0", "--memory-kind", memfd ? "memfd" : "auto"}});
  if (!vmm.ok()) Fail(vmm.status());
  const absl::StatusOr<GuestProbe> before = Attach(**host);
  if (!before.ok()) Fail(before.status());
  if (absl::Status status = before->TouchAllPages(); !status.ok()) Fail(status);

  const absl::StatusOr<v1::Migration> migration =
      (*host)->Migrate(kVmId, harness::ProfileOfVersion(kVmmVersion), v1::Migration::AFTER_RESUME);
  if (!migration.ok()) Fail(migration.status());
  if (absl::Status status = SampleOf(*migration).status(); !status.ok()) Fail(status);
  absl::StatusOr<GuestProbe> after = Attach(**host);
  if (!after.ok()) Fail(after.status());
  const absl::StatusOr<double> touched = after->TimeToTouchAllUs(kGuestTimeout);
  if (!touched.ok()) Fail(touched.status());
  way.touch_ms.push_back(*touched / 1000);
  way.total_ms.push_back((SecondsOf(migration->end_time()) - SecondsOf(migration->create_time())) *
                         1000);
  if (absl::Status status = (*host)->StopVm(kVmId); !status.ok()) Fail(status);
}

void RunFirstSeconds(Way& way, const Options& options) {
  for (size_t i = 0; i < std::size(kSecondVcpus); ++i) {
    const GuestShape shape = {
        .vcpus = kSecondVcpus[i], .memory_mib = options.memory_mib, .memfd = options.memfd};
    const absl::Status status = AddFirstSecond(shape, way.target_arguments, way.first_seconds[i]);
    if (!status.ok()) Fail(status);
  }
}

void PrintFirstSeconds(const Style& style, std::span<const Way> ways) {
  printf("\n%s\n", style
                       .Bold("One round of the guest, us    in the second before the move   in the "
                             "first second after")
                       .c_str());
  printf("%s\n", style
                     .Bold("vCPU                              p50     p99      max      "
                           "p50     p99      max")
                     .c_str());
  for (const Way& way : ways) {
    for (size_t i = 0; i < std::size(kSecondVcpus); ++i) {
      const FirstSecond& second = way.first_seconds[i];
      printf("%u  %-26s", kSecondVcpus[i], way.name);
      for (const RoundLatency* latency : {&second.before, &second.after}) {
        printf(" %7.2f %7.2f %8.0f ", latency->PercentileUs(50), latency->PercentileUs(99),
               latency->longest_us());
      }
      printf("\n");
    }
  }
}

ordered_json ToJson(const RoundLatency& latency) {
  return {{"rounds", latency.rounds()},
          {"p50", latency.PercentileUs(50)},
          {"p99", latency.PercentileUs(99)},
          {"p999", latency.PercentileUs(99.9)},
          {"max", latency.longest_us()}};
}

ordered_json FirstSecondsJson(std::span<const Way> ways) {
  ordered_json json = ordered_json::array();
  for (const Way& way : ways) {
    for (size_t i = 0; i < std::size(kSecondVcpus); ++i) {
      json.push_back({{"name", way.name},
                      {"vcpus", kSecondVcpus[i]},
                      {"before_us", ToJson(way.first_seconds[i].before)},
                      {"after_us", ToJson(way.first_seconds[i].after)}});
    }
  }
  return json;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("What a guest pays for its page tables after a move");
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--runs", options.runs, "hops of each way")->check(CLI::Range(1, 1000));
  app.add_option("--second-runs", options.second_runs,
                 "hops of each way and number of vCPUs for the first second; 0: without")
      ->check(CLI::Range(0, 1000));
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  Way ways[] = {{"empty page tables", {"--populate=0", "--warm-ms=0"}, {}, {}, {}},
                {"host page tables populated", {"--warm-ms=0"}, {}, {}, {}},
                {"populated and warm", {}, {}, {}, {}}};
  for (int run = 0; run < options.runs; ++run) {
    for (Way& way : ways) RunOnce(way, options.memory_mib, options.memfd);
  }
  for (Way& way : ways) way.first_seconds.resize(std::size(kSecondVcpus));
  for (int run = 0; run < options.second_runs; ++run) {
    for (Way& way : ways) RunFirstSeconds(way, options);
  }
  const Style style = Style::ForStdout();
  printf("%s\n\n", MachineLine().c_str());
  printf(
      "%s\n",
      style.Bold("                               touch all of it        whole migration").c_str());
  printf("%s\n", style.Bold("                                  p50      max          p50").c_str());
  ordered_json json = {{"memory_mib", options.memory_mib}, {"runs", options.runs}};
  for (Way& way : ways) {
    const Summary touch = Summarize(way.touch_ms);
    const Summary total = Summarize(way.total_ms);
    printf("%-28s %6.1f   %6.1f ms   %6.0f ms\n", way.name, touch.p50, touch.max, total.p50);
    json["ways"].push_back({{"name", way.name},
                            {"touch_ms", {{"p50", touch.p50}, {"max", touch.max}}},
                            {"migration_ms_p50", total.p50}});
  }
  if (options.second_runs > 0) {
    PrintFirstSeconds(style, ways);
    json["first_second"] = FirstSecondsJson(ways);
    json["second_runs"] = options.second_runs;
  }
  json["load"] = LoadAverage();
  printf("\nload average %.2f\n", LoadAverage());
  if (options.json) printf("%s\n", json.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
