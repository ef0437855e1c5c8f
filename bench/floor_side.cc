// SPDX-License-Identifier: Apache-2.0
#include "bench/floor_side.h"

#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/harness/process.h"

namespace rehome::bench {
namespace {

// A hop takes 0.1 s, one of 8 GiB some seconds; the rest is a loaded machine.
constexpr std::chrono::minutes kFloorTimeout{30};

constexpr const char* kPhases[] = {"stop_vcpus", "save_state", "restore_state", "resume"};

}  // namespace

absl::StatusOr<HopSamples> ParseFloorOutput(std::string_view text) {
  HopSamples samples;
  const std::string whole(text);
  for (absl::string_view line : absl::StrSplit(whole, '\n', absl::SkipEmpty())) {
    const auto hop = nlohmann::json::parse(std::string(line), nullptr, /*allow_exceptions=*/false);
    if (!hop.is_object()) return absl::InternalError(absl::StrCat("floor: ", line));
    HopSample sample = {.blackout_us = hop.value("blackout_us", 0.0),
                        .guest_gap_us = hop.value("guest_gap_us", 0.0)};
    for (const char* phase : kPhases) {
      sample.phases_us.emplace_back(phase, hop.value(absl::StrCat(phase, "_us"), 0.0));
    }
    if (!(sample.blackout_us > 0)) {
      return absl::InternalError(absl::StrCat("floor, no blackout: ", line));
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

absl::StatusOr<HopSamples> RunFloor(const GuestShape& shape, int hops) {
  const harness::TempDir directory;
  const std::string output = directory.File("floor");
  std::vector<std::string> argv = {harness::BinaryPath("bench/floor"),
                                   "--vcpus",
                                   absl::StrCat(shape.vcpus),
                                   "--memory",
                                   absl::StrCat(shape.memory_mib),
                                   "--hops",
                                   absl::StrCat(hops),
                                   "--dwell",
                                   absl::StrCat(kDwellMs)};
  if (shape.memfd) argv.push_back("--memfd");
  absl::StatusOr<harness::Process> floor =
      harness::Process::Start({.argv = std::move(argv), .log_path = output});
  if (!floor.ok()) return floor.status();
  const absl::StatusOr<int> status = floor->WaitExit(kFloorTimeout);
  if (!status.ok()) return status.status();
  std::ifstream file(output);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (!WIFEXITED(*status) || WEXITSTATUS(*status) != 0) {
    return absl::InternalError(absl::StrCat("the floor failed: ", text));
  }
  absl::StatusOr<HopSamples> samples = ParseFloorOutput(text);
  if (samples.ok() && samples->size() != static_cast<size_t>(hops)) {
    return absl::InternalError(absl::StrCat("the floor made ", samples->size(), " hops"));
  }
  return samples;
}

}  // namespace rehome::bench
