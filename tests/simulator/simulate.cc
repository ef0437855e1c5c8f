// SPDX-License-Identifier: Apache-2.0
//
// simulate [--seeds N] [--first S] [--seed S [--verbose]]
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "tests/simulator/simulation.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kDefaultSeeds = 10'000;

struct Arguments {
  uint64_t first = 1;
  uint64_t seeds = kDefaultSeeds;
  bool verbose = false;
  bool wrong = false;
};

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--verbose") {
      arguments.verbose = true;
      continue;
    }
    char* end = nullptr;
    const uint64_t value = i + 1 < argc ? std::strtoull(argv[++i], &end, 10) : 0;
    if (end == nullptr || *end != '\0') arguments.wrong = true;
    if (name == "--seeds") {
      arguments.seeds = value;
    } else if (name == "--first") {
      arguments.first = value;
    } else if (name == "--seed") {
      arguments.first = value;
      arguments.seeds = 1;
    } else {
      arguments.wrong = true;
    }
  }
  return arguments;
}

int Run(const Arguments& arguments) {
  std::map<std::string, uint64_t> endings;
  uint64_t steps = 0;
  uint64_t deaths = 0;
  uint64_t rescues = 0;
  uint64_t found = 0;
  for (uint64_t seed = arguments.first; seed < arguments.first + arguments.seeds; ++seed) {
    Plan plan = PlanOf(seed);
    plan.verbose = arguments.verbose;
    const Result result = Simulate(plan);
    for (const std::string& line : result.log) std::printf("%s\n", line.c_str());
    for (const Migration& record : result.records) {
      ++endings[MigrationStateName(record.state)];
      rescues += record.rescue.attempts > 0 ? 1 : 0;
    }
    steps += result.steps;
    deaths += static_cast<uint64_t>(result.deaths);
    if (result.violation.empty()) continue;
    ++found;
    std::printf("seed %lu: %s\n  ./dev simulate --seed %lu --verbose\n", seed,
                result.violation.c_str(), seed);
  }
  std::printf("%lu seeds, %lu steps, %lu deaths of the daemon, %lu rescues;", arguments.seeds,
              steps, deaths, rescues);
  for (const auto& [state, count] : endings) std::printf(" %lu %s", count, state.c_str());
  std::printf("; %lu violations\n", found);
  return found == 0 ? 0 : 1;
}

}  // namespace
}  // namespace rehome::sim

int main(int argc, char** argv) {
  const rehome::sim::Arguments arguments = rehome::sim::Parse(argc, argv);
  if (arguments.wrong) {
    std::fprintf(stderr, "usage: simulate [--seeds N] [--first S] [--seed S [--verbose]]\n");
    return 2;
  }
  return rehome::sim::Run(arguments);
}
