// SPDX-License-Identifier: Apache-2.0
//
// The ways to fence a process that has run a guest, each timed on this host from the order until it
// is seen to be carried out: a small and a large guest, its vCPU in the guest (as of a source that
// does not obey) and stopped (as after its state is saved). Which of them is a proof, and of what,
// docs/blackout.md says.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "bench/cpu_visit.h"
#include "bench/fence_victim.h"
#include "bench/freezer.h"
#include "bench/host_info.h"
#include "bench/kvm_traces.h"
#include "bench/percentile.h"
#include "bench/terminal.h"
#include "daemon/fence.h"
#include "daemon/proc_files.h"
#include "daemon/process_identity.h"
#include "kvmglue/fd_passing.h"
#include "nlohmann/json.hpp"

namespace rehome::bench {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// The slowest way takes 0.6 s for 4 GiB on a quiet machine.
constexpr std::chrono::milliseconds kTimeout{30'000};
constexpr useconds_t kLookPauseUs = 20;  // as the daemon's (daemon/proc_fence.cc)
constexpr unsigned long kTimerSlackNs = 1000;
constexpr uint64_t kSmallMib = 64;
// Kept free beside the guest's memory.
constexpr uint64_t kSpareMib = 2048;

enum WayIndex { kExit, kExiting, kVisit, kStop, kFreeze, kGiveUp, kUnmapped, kWays };

struct Way {
  const char* name;
  const char* title;
  const char* proof;
};
constexpr Way kWayTable[kWays] = {
    {"exit", "SIGKILL, pidfd readable", "yes: the process is gone, with all that it held"},
    {"exiting", "SIGKILL, every task exiting",
     "yes: no task runs user or guest code again, or is in a system call (the daemon's fence)"},
    {"visit", "SIGKILL, then once on each CPU",
     "argued, not shown: no task runs user or guest code again"},
    {"stop", "SIGSTOP, every task stopped", "no: whoever may signal it lets it go on"},
    {"freeze", "cgroup.freeze, frozen", "no: whoever may write there lets it go on"},
    {"give-up", "closes its KVM files, none in /proc, no task in KVM_RUN",
     "no: one may be in flight in a socket, and it still writes the guest's memory"},
    {"unmapped", "the same, and has unmapped the memory", "no: for the first of these reasons"},
};

struct Options {
  uint64_t large_mib = 4096;
  int runs = 20;
  int large_runs = 5;
  bool json = false;
};

struct Row {
  uint64_t memory_mib = 0;
  bool vcpu_runs = false;
  std::vector<double> us[kWays];
  std::string why_not[kWays];
  // Runs of kVisit in which the guest went on after the signal had been sent: those in which the
  // visit had something to prove.
  int ran_after_signal = 0;
};

[[noreturn]] void Fail(const char* what, const absl::Status& status) {
  fprintf(stderr, "fence_ways bench: %s: %s\n", what, status.ToString().c_str());
  exit(1);
}

double MicrosSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

void AwaitSeen(const char* what, const std::function<bool()>& seen) {
  const Clock::time_point end = Clock::now() + kTimeout;
  while (!seen()) {
    if (Clock::now() > end) Fail(what, absl::DeadlineExceededError("is not seen"));
    usleep(kLookPauseUs);
  }
}

bool AreAllTasksIn(char state, pid_t pid) {
  const std::string path = ProcPath(pid) + "/task";
  const absl::StatusOr<std::vector<int32_t>> tasks = ListNumbers(path);
  if (!tasks.ok() || tasks->empty()) return false;
  for (const int32_t task : *tasks) {
    const absl::StatusOr<TaskStat> stat = ReadTaskStat(absl::StrCat(path, "/", task, "/stat"));
    if (!stat.ok() || stat->state != state) return false;
  }
  return true;
}

FenceVictim StartVictim(const Row& row) {
  absl::StatusOr<FenceVictim> victim = FenceVictim::Start(row.memory_mib);
  if (!victim.ok()) Fail("start", victim.status());
  if (!row.vcpu_runs) {
    if (absl::Status status = victim->Do(VictimCommand::kStopVcpu); !status.ok()) {
      Fail("stop of the vCPU", status);
    }
  }
  return *std::move(victim);
}

void MeasureKill(Fence& fence, Row& row) {
  const FenceVictim victim = StartVictim(row);
  const absl::StatusOr<ProcessIdentity> identity = IdentifyProcess(victim.pidfd());
  if (!identity.ok()) Fail("identity", identity.status());
  const Clock::time_point begin = Clock::now();
  if (absl::Status status = fence.Kill(victim.pidfd()); !status.ok()) Fail("SIGKILL", status);
  const auto stopped = fence.AwaitTasksStopped(victim.pidfd(), *identity, kTimeout);
  if (!stopped.ok()) Fail("exiting", stopped.status());
  row.us[kExiting].push_back(MicrosSince(begin));
  const auto exited = fence.AwaitExit(victim.pidfd(), kTimeout);
  if (!exited.ok()) Fail("exit", exited.status());
  row.us[kExit].push_back(MicrosSince(begin));
}

void MeasureVisit(Fence& fence, Row& row) {
  const FenceVictim victim = StartVictim(row);
  const Clock::time_point begin = Clock::now();
  if (absl::Status status = fence.Kill(victim.pidfd()); !status.ok()) Fail("SIGKILL", status);
  const uint64_t signalled = victim.guest_rounds();
  const absl::Status visited = VisitEveryCpu();
  const uint64_t proven = victim.guest_rounds();
  if (visited.ok()) {
    row.us[kVisit].push_back(MicrosSince(begin));
  } else {
    row.why_not[kVisit] = std::string(visited.message());
  }
  if (auto exited = fence.AwaitExit(victim.pidfd(), kTimeout); !exited.ok()) {
    Fail("exit", exited.status());
  }
  if (visited.ok() && victim.guest_rounds() != proven) {
    Fail("visit", absl::InternalError("the guest ran after it had been proven stopped"));
  }
  if (victim.guest_rounds() != signalled) ++row.ran_after_signal;
}

void MeasureStop(const FenceVictim& victim, Row& row) {
  const Clock::time_point begin = Clock::now();
  if (absl::Status status = SendSignal(victim.pidfd(), SIGSTOP); !status.ok()) {
    Fail("SIGSTOP", status);
  }
  AwaitSeen("SIGSTOP", [&] { return AreAllTasksIn('T', victim.pid()); });
  row.us[kStop].push_back(MicrosSince(begin));
  if (absl::Status status = SendSignal(victim.pidfd(), SIGCONT); !status.ok()) {
    Fail("SIGCONT", status);
  }
}

void MeasureFreeze(const FenceVictim& victim, Row& row) {
  absl::StatusOr<Freezer> freezer = Freezer::Around(victim.pid());
  if (!freezer.ok()) {
    row.why_not[kFreeze] = std::string(freezer.status().message());
    return;
  }
  const Clock::time_point begin = Clock::now();
  if (absl::Status status = freezer->Freeze(kTimeout); !status.ok()) Fail("freeze", status);
  row.us[kFreeze].push_back(MicrosSince(begin));
}

// The escrow of the real thing: with our duplicates nothing ends when the process closes its own.
std::vector<UniqueFd> DuplicatesOf(const FenceVictim& victim) {
  const absl::StatusOr<KvmTraces> traces = FindKvmTraces(victim.pid());
  if (!traces.ok()) Fail("/proc", traces.status());
  std::vector<UniqueFd> duplicates;
  for (const int fd : traces->descriptors) {
    duplicates.emplace_back(pidfd_getfd(victim.pidfd().raw(), fd, 0));
    if (!duplicates.back()) Fail("pidfd_getfd", absl::ErrnoToStatus(errno, "descriptor"));
  }
  return duplicates;
}

void MeasureGivingUp(FenceVictim& victim, Row& row) {
  const std::vector<UniqueFd> escrow = DuplicatesOf(victim);
  const auto order = [&victim](VictimCommand command) {
    if (absl::Status status = victim.Do(command); !status.ok()) Fail("order", status);
  };
  const auto has_none = [&victim](bool memory_too) {
    const absl::StatusOr<KvmTraces> traces = FindKvmTraces(victim.pid());
    return traces.ok() && traces->descriptors.empty() && traces->vcpu_mappings.empty() &&
           (!memory_too || traces->memory_mappings.empty()) && NoTaskInKvmRun(victim.pid());
  };
  const Clock::time_point begin = Clock::now();
  if (row.vcpu_runs) order(VictimCommand::kStopVcpu);
  order(VictimCommand::kGiveUpKvm);
  AwaitSeen("closed", [&] { return has_none(false); });
  row.us[kGiveUp].push_back(MicrosSince(begin));
  order(VictimCommand::kUnmap);
  AwaitSeen("unmapped", [&] { return has_none(true); });
  row.us[kUnmapped].push_back(MicrosSince(begin));
}

void MeasureRound(Fence& fence, Row& row) {
  MeasureKill(fence, row);
  MeasureVisit(fence, row);
  FenceVictim victim = StartVictim(row);
  MeasureStop(victim, row);
  MeasureFreeze(victim, row);
  MeasureGivingUp(victim, row);
}

void Print(const Style& style, const Row& row) {
  printf("\n%s\n", style
                       .Bold(absl::StrCat(row.memory_mib, " MiB, vCPU ",
                                          row.vcpu_runs ? "in the guest" : "stopped"))
                       .c_str());
  printf("  us                                                          p50       max\n");
  for (int i = 0; i < kWays; ++i) {
    const Summary us = Summarize(row.us[i]);
    if (us.count == 0) {
      printf("  %-56s not taken: %s\n", kWayTable[i].title, row.why_not[i].c_str());
    } else {
      printf("  %-56s %8.0f  %8.0f\n", kWayTable[i].title, us.p50, us.max);
    }
  }
  if (row.vcpu_runs) {
    printf("  the guest went on after SIGKILL had been sent: %d times; after the visits: never\n",
           row.ran_after_signal);
  }
  fflush(stdout);
}

ordered_json ToJson(const Row& row) {
  ordered_json ways = ordered_json::array();
  for (int i = 0; i < kWays; ++i) {
    const Summary us = Summarize(row.us[i]);
    ordered_json way = {{"name", kWayTable[i].name},
                        {"title", kWayTable[i].title},
                        {"proof", kWayTable[i].proof},
                        {"runs", us.count}};
    if (us.count == 0) {
      way["not_taken"] = row.why_not[i];
    } else {
      way["us"] = {{"p50", us.p50}, {"p99", us.p99}, {"max", us.max}};
    }
    ways.push_back(std::move(way));
  }
  return {{"memory_mib", row.memory_mib},
          {"vcpu_runs", row.vcpu_runs},
          {"ran_after_signal", row.ran_after_signal},
          {"ways", ways}};
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("The ways to fence a process that has run a guest, each timed");
  app.add_option("--runs", options.runs, "of each way with 64 MiB")->check(CLI::Range(1, 1000));
  app.add_option("--large", options.large_mib, "MiB of the large guest")
      ->check(CLI::Range(16, 1 << 16));
  app.add_option("--large-runs", options.large_runs, "of each way with that; 0: without")
      ->check(CLI::Range(0, 1000));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
  const std::unique_ptr<Fence> fence = NewProcFence();
  const Style style = Style::ForStdout();
  printf("%s\n", MachineLine().c_str());
  ordered_json rows = ordered_json::array();
  for (const bool is_large : {false, true}) {
    const uint64_t memory_mib = is_large ? options.large_mib : kSmallMib;
    const int runs = is_large ? options.large_runs : options.runs;
    if (runs > 0 && AvailableMemoryMib() < memory_mib + kSpareMib) {
      printf("\n%lu MiB: left out, not enough free memory\n", memory_mib);
      continue;
    }
    for (const bool vcpu_runs : {true, false}) {
      Row row = {.memory_mib = memory_mib, .vcpu_runs = vcpu_runs, .us = {}, .why_not = {}};
      for (int run = 0; run < runs; ++run) MeasureRound(*fence, row);
      if (runs == 0) continue;
      Print(style, row);
      rows.push_back(ToJson(row));
    }
  }
  printf("\nload average %.2f\n", LoadAverage());
  if (options.json) {
    const ordered_json json = {{"rows", rows}, {"load", LoadAverage()}};
    printf("%s\n", json.dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
