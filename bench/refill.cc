// SPDX-License-Identifier: Apache-2.0
//
// What a guest pays after it was moved: it reads every page of its memory, once, in a VM whose page
// tables are empty, whose host page tables are populated, and whose own page tables are warm too
// (vmm/reference/page_warmer.h). In turns, so that what else the machine does hits all alike.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
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

struct Options {
  uint64_t memory_mib = 1024;
  bool memfd = false;
  int runs = 5;
  bool json = false;
};

struct Way {
  const char* name;
  std::vector<std::string> target_arguments;
  std::vector<double> touch_ms, total_ms;
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

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("What a guest pays for its page tables after a move");
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--runs", options.runs, "hops of each way")->check(CLI::Range(1, 1000));
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  Way ways[] = {{"empty page tables", {"--populate=0", "--warm-ms=0"}, {}, {}},
                {"host page tables populated", {"--warm-ms=0"}, {}, {}},
                {"populated and warm", {}, {}, {}}};
  for (int run = 0; run < options.runs; ++run) {
    for (Way& way : ways) RunOnce(way, options.memory_mib, options.memfd);
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
  json["load"] = LoadAverage();
  printf("\nload average %.2f\n", LoadAverage());
  if (options.json) printf("%s\n", json.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
