// SPDX-License-Identifier: Apache-2.0
//
// What each step that keeps the blackout short is worth: the guest moves with all of them, and with
// each of them left out, in turn in one run, so that what else the machine does hits all alike. A
// round is a turn of each; the next round goes the other way round.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/hop_sample.h"
#include "bench/host_info.h"
#include "bench/percentile.h"
#include "bench/rehome_side.h"
#include "bench/step_ways.h"
#include "bench/terminal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {
namespace {

using nlohmann::ordered_json;

// Of a guest's hops the first is left out: its memory is bound in another way, and nothing is warm.
constexpr int kWarmUpHops = 1;
constexpr char kAllSteps[] = "all-steps";

struct Options {
  uint32_t vcpus = 1;
  uint64_t memory_mib = 64;
  int rounds = 6;
  int hops = 5;
  std::vector<std::string> without;
  bool memfd = false;
  bool json = false;
};

// One side of the comparison, with what it measured, round by round.
struct Side {
  StepWay way;
  std::vector<HopSamples> rounds;

  HopSamples All() const {
    HopSamples all;
    for (const HopSamples& round : rounds) all.insert(all.end(), round.begin(), round.end());
    return all;
  }
};

[[noreturn]] void Fail(const absl::Status& status) {
  fprintf(stderr, "steps bench: %s\n", status.ToString().c_str());
  exit(1);
}

harness::ProfileConfig ProfileOf(const StepWay& way) {
  harness::ProfileConfig profile = {
      .name = way.name,
      .command = {harness::BinaryPath("vmm/reference/rehome-vmm-2"), "--target", "--kernel", "kvm"},
      .environment = {},
      .more = {"reads_state_formats = [1, 2, 3]"}};
  profile.command.insert(profile.command.end(), way.arguments.begin(), way.arguments.end());
  return profile;
}

std::vector<Side> SidesOf(const Options& options) {
  std::vector<Side> sides = {
      {.way = {.name = kAllSteps, .title = "all steps", .arguments = {}}, .rounds = {}}};
  for (const StepWay& way : StepWaysFor(options.without, options.vcpus)) {
    sides.push_back({.way = way, .rounds = {}});
  }
  return sides;
}

void TakeTurn(harness::HostUnderTest& host, const Options& options, Side& side) {
  const GuestShape shape = {
      .vcpus = options.vcpus, .memory_mib = options.memory_mib, .memfd = options.memfd};
  // A target's options are those of its profile; the VMM that starts the guest gets them too.
  const absl::StatusOr<HopSamples> hops =
      RunRehome(host, shape, options.hops + kWarmUpHops, v1::Migration::AFTER_RESUME,
                {.profile = side.way.name, .arguments = side.way.arguments});
  if (!hops.ok()) Fail(hops.status());
  side.rounds.emplace_back(hops->begin() + kWarmUpHops, hops->end());
}

void Measure(const Options& options, std::vector<Side>& sides) {
  harness::HostOptions host_options = {.kernel = "kvm"};
  for (const Side& side : sides) host_options.profiles.push_back(ProfileOf(side.way));
  absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host =
      harness::HostUnderTest::Start(host_options);
  if (!host.ok()) Fail(host.status());
  for (int round = 0; round < options.rounds; ++round) {
    fprintf(stderr, "\rround %d of %d   ", round + 1, options.rounds);
    for (size_t i = 0; i < sides.size(); ++i) {
      TakeTurn(**host, options, sides[round % 2 == 0 ? i : sides.size() - 1 - i]);
    }
  }
  fprintf(stderr, "\r%40s\r", "");
}

ordered_json ToJson(const HopSamples& samples) {
  const Summary blackout = BlackoutOf(samples);
  const Summary gap = GuestGapOf(samples);
  ordered_json phases = ordered_json::object();
  for (const auto& [name, micros] : PhaseMedians(samples)) phases[name] = micros;
  return {{"hops", samples.size()},
          {"blackout_us", {{"p50", blackout.p50}, {"p99", blackout.p99}, {"max", blackout.max}}},
          {"guest_gap_us", {{"p50", gap.p50}, {"p99", gap.p99}, {"max", gap.max}}},
          {"phases_p50_us", phases}};
}

// Of each round, the factor by which the blackout is longer without the step.
std::vector<double> RoundRatios(const Side& all, const Side& side) {
  std::vector<double> ratios;
  for (size_t i = 0; i < side.rounds.size(); ++i) {
    ratios.push_back(RoundRatio(all.rounds[i], side.rounds[i]));
  }
  return ratios;
}

void Print(const Options& options, const std::vector<Side>& sides) {
  const Style style = Style::ForStdout();
  const HopSamples all = sides.front().All();
  printf("%s\n\n%u vCPU, %lu MiB, fence after the resume, %d rounds of %d hops; us\n\n",
         MachineLine().c_str(), options.vcpus, options.memory_mib, options.rounds, options.hops);
  printf("%s\n", style
                     .Bold("                                                 blackout p50  "
                           "guest gap p50  / with all, by round")
                     .c_str());
  printf("%-46s %12.0f %13.0f\n", "all steps", BlackoutOf(all).p50, GuestGapOf(all).p50);
  for (size_t i = 1; i < sides.size(); ++i) {
    const Side& side = sides[i];
    const HopSamples samples = side.All();
    std::vector<double> ratios = RoundRatios(sides.front(), side);
    std::sort(ratios.begin(), ratios.end());
    const PhaseChange change = MostChangedPhase(all, samples);
    const std::string what = absl::StrCat(side.way.is_taken ? "not: " : "and: ", side.way.title);
    printf("%-46s %12.0f %13.0f     %.2f (%.2f to %.2f); %s %+.0f\n", what.c_str(),
           BlackoutOf(samples).p50, GuestGapOf(samples).p50, Percentile(ratios, 50), ratios.front(),
           ratios.back(), change.phase.c_str(), change.micros);
  }
  printf("\nload average %.2f\n", LoadAverage());
}

void PrintJson(const Options& options, const std::vector<Side>& sides) {
  const HopSamples all = sides.front().All();
  ordered_json json = {{"vcpus", options.vcpus},        {"memory_mib", options.memory_mib},
                       {"rounds", options.rounds},      {"hops_in_a_round", options.hops},
                       {"load", LoadAverage()},         {"all_steps", ToJson(all)},
                       {"steps", ordered_json::array()}};
  for (size_t i = 1; i < sides.size(); ++i) {
    const HopSamples samples = sides[i].All();
    const PhaseChange change = MostChangedPhase(all, samples);
    json["steps"].push_back({{"name", sides[i].way.name},
                             {"title", sides[i].way.title},
                             {"taken", sides[i].way.is_taken},
                             {"changed", ToJson(samples)},
                             {"round_ratios", RoundRatios(sides.front(), sides[i])},
                             {"phase", change.phase},
                             {"phase_us", change.micros}});
  }
  printf("%s\n", json.dump().c_str());
}

int Main(int argc, char** argv) {
  Options options;
  std::vector<std::string> names;
  for (const StepWay& way : AllStepWays()) names.emplace_back(way.name);
  CLI::App app("The blackout with and without each step that keeps it short, in turn");
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, 16));
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--rounds", options.rounds, "turns of each side")->check(CLI::Range(1, 1000));
  app.add_option("--hops", options.hops, "hops of a turn")->check(CLI::Range(1, 1000));
  app.add_option("--without", options.without, "only this step; repeatable")
      ->check(CLI::IsMember(names));
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd");
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  std::vector<Side> sides = SidesOf(options);
  if (sides.size() == 1) {
    fprintf(stderr, "steps bench: with so few vCPUs that step makes no difference\n");
    return 2;
  }
  Measure(options, sides);
  Print(options, sides);
  if (options.json) PrintJson(options, sides);
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
