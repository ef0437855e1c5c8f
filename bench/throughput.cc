// SPDX-License-Identifier: Apache-2.0
//
// How many migrations one daemon gets through, with few and with many VMs registered, on the
// simulated kernel. The guests that move are processes that consist of an agent and nothing else
// (bench/wire_vmm), moved again and again by as many clients as the daemon drives at once; the
// other VMs are connections of this process. So what is measured is the daemon, its journal and the
// kernel's fork, exec, exit and /proc, beside two agents and a client.
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "bench/host_info.h"
#include "bench/idle_vms.h"
#include "bench/many_vms.h"
#include "bench/percentile.h"
#include "bench/terminal.h"
#include "client/migration_client.h"
#include "nlohmann/json.hpp"
#include "tests/harness/host_under_test.h"
#include "tests/harness/process.h"

namespace rehome::bench {
namespace {

using harness::HostUnderTest;
using Clock = std::chrono::steady_clock;

constexpr char kProfile[] = "wire";
constexpr std::chrono::milliseconds kAgentTimeout{60'000};
// Between two looks whether a target has registered; each costs the daemon a call.
constexpr std::chrono::milliseconds kLookAgain{1};
constexpr double kGoalPerSecond = 200;
// What a machine with other work may take; none of it is waited for when all is well.
const std::vector<std::string> kPatientDaemon = {
    "handover_timeout_ms = 10000", "resolve_timeout_ms = 60000", "agent_timeout_ms = 60000",
    "first_run_timeout_ms = 60000", "release_timeout_ms = 10000"};

struct Options {
  int vms = 1000;
  int movers = 8;
  int seconds = 5;
  bool json = false;
};

struct Round {
  int vms = 0;
  int migrations = 0;
  double seconds = 0;
  // Of each migration.
  double user_ms = 0, system_ms = 0;  // the daemon's
  double vmms_ms = 0;                 // of the VMMs that it started and that ended meanwhile
  double clients_ms = 0;              // this process's: clients, and connections of idle VMs
  double busy_ms = 0;                 // of all cores, whoever was busy
  Summary latency_ms;
  double load = 0;
  double per_second() const { return migrations / seconds; }
};

// Since the start of a process, or of the host, in milliseconds.
struct CpuTime {
  double user_ms = 0;
  double system_ms = 0;
  double children_ms = 0;  // of those that were waited for
};

double TicksToMs(const std::string& ticks) {
  return static_cast<double>(std::stoll(ticks)) * 1000 / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Empty if it cannot be read.
std::string ReadProc(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

CpuTime CpuTimeOf(pid_t pid) {
  const std::string stat = ReadProc(absl::StrCat("/proc/", pid, "/stat"));
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return {};
  // Fields 14 to 17, counted behind the name, which may contain blanks (proc_pid_stat(5)).
  constexpr size_t kUtime = 11, kStime = 12, kCutime = 13, kCstime = 14;
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
  if (fields.size() <= kCstime) return {};
  return {TicksToMs(fields[kUtime]), TicksToMs(fields[kStime]),
          TicksToMs(fields[kCutime]) + TicksToMs(fields[kCstime])};
}

// Of all cores; not idle, not waiting for a disk, not taken by a hypervisor (proc_stat(5)).
double BusyMs() {
  const std::string stat = ReadProc("/proc/stat");
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(0, stat.find('\n')), ' ', absl::SkipEmpty());
  constexpr size_t kUser = 1, kNice = 2, kSystem = 3, kIrq = 6, kSoftIrq = 7;
  if (fields.size() <= kSoftIrq) return 0;
  double busy = 0;
  for (const size_t field : {kUser, kNice, kSystem, kIrq, kSoftIrq}) {
    busy += TicksToMs(fields[field]);
  }
  return busy;
}

class ThroughputBench {
 public:
  explicit ThroughputBench(const Options& options) : options_(options) {}

  void Run() {
    const std::string vmm = harness::BinaryPath("bench/wire_vmm/wire-vmm");
    std::vector<std::string> lines = kPatientDaemon;
    lines.push_back(absl::StrCat("concurrent_migrations = ", options_.movers));
    lines.push_back("log_level = \"warning\"");
    host_ = Check(
        HostUnderTest::Start({.kernel = "sim",
                              .daemon_lines = lines,
                              .profiles = {{.name = kProfile, .command = {vmm, "--target"}}}}),
        "start");
    for (int i = 0; i < options_.movers; ++i) StartMover(vmm, i);
    for (const int vms : {10, 100, 1000}) {
      if (vms > options_.vms) break;
      Check(idle_.GrowTo(host_->agent_socket(), vms - options_.movers), "register");
      rounds_.push_back(RunRound(vms));
    }
  }

  void Print(const Style& style) const {
    printf("%s\n\n", MachineLine().c_str());
    printf("  %d guests move, %d s each round\n", options_.movers, options_.seconds);
    for (const Round& round : rounds_) {
      const bool good = round.per_second() >= kGoalPerSecond;
      printf(
          "  %4d VMs registered  %7.1f migrations/s  %s at least %.0f   the daemon's CPU for "
          "each: user %.2f, system %.2f ms   took p50 %.1f, p99 %.1f ms   load %.1f\n",
          round.vms, round.per_second(), (good ? style.Passed() : style.Failed()).c_str(),
          kGoalPerSecond, round.user_ms, round.system_ms, round.latency_ms.p50,
          round.latency_ms.p99, round.load);
      printf(
          "        CPU for each: the daemon %.1f, the VMMs %.1f, the clients %.1f, "
          "everybody together %.1f ms\n",
          round.user_ms + round.system_ms, round.vmms_ms, round.clients_ms, round.busy_ms);
    }
    printf("\n");
  }

  nlohmann::ordered_json Json() const {
    nlohmann::ordered_json rounds = nlohmann::ordered_json::array();
    for (const Round& round : rounds_) {
      rounds.push_back({{"vms", round.vms},
                        {"migrations", round.migrations},
                        {"seconds", round.seconds},
                        {"per_second", round.per_second()},
                        {"daemon_user_ms", round.user_ms},
                        {"daemon_system_ms", round.system_ms},
                        {"vmms_ms", round.vmms_ms},
                        {"clients_ms", round.clients_ms},
                        {"busy_ms", round.busy_ms},
                        {"latency_ms",
                         {{"p50", round.latency_ms.p50},
                          {"p99", round.latency_ms.p99},
                          {"max", round.latency_ms.max}}},
                        {"load", round.load}});
    }
    return {{"movers", options_.movers}, {"goal_per_second", kGoalPerSecond}, {"rounds", rounds}};
  }

 private:
  static std::string MoverName(int number) { return absl::StrCat("mover-", number); }

  void StartMover(const std::string& vmm, int number) {
    movers_.push_back(Check(
        harness::Process::Start({.argv = {vmm, MoverName(number), host_->agent_socket()},
                                 .environment = {{harness::kHostVariable, host_->directory()}},
                                 .log_path = host_->directory() + "/movers.log"}),
        "start a VMM"));
    const Clock::time_point deadline = Clock::now() + kAgentTimeout;
    while (!host_->GetVm(MoverName(number)).ok()) {
      if (Clock::now() > deadline) Check(absl::DeadlineExceededError("no VM"), "register");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  // The time of one, in ms.
  double MoveOnce(MigrationClient& client, const std::string& vm) {
    const Clock::time_point start = Clock::now();
    v1::CreateMigrationRequest request;
    request.set_vm("virtualMachines/" + vm);
    request.set_target_profile(kProfile);
    const v1::Migration created = Check(client.CreateMigration(request), "create");
    const v1::Migration last = Check(client.WatchMigration(created.name(), {}), "watch");
    if (last.state() != v1::Migration::SUCCEEDED) {
      Check(absl::InternalError(last.ShortDebugString()), "migrate");
    }
    // SUCCEEDED means that the fence is proven; the target registers in its own time.
    while (!IsAt(client, vm, last.target().pid())) std::this_thread::sleep_for(kLookAgain);
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  }

  static bool IsAt(MigrationClient& client, const std::string& vm, int32_t pid) {
    v1::GetVirtualMachineRequest request;
    request.set_name("virtualMachines/" + vm);
    const auto found = client.GetVirtualMachine(request);
    return found.ok() && found->process().pid() == pid;
  }

  Round RunRound(int vms) {
    std::vector<double> times;
    std::mutex mutex;  // guards times
    const CpuTime before = CpuTimeOf(host_->daemon().pid());
    const CpuTime own_before = CpuTimeOf(getpid());
    const double busy_before = BusyMs();
    const Clock::time_point start = Clock::now();
    const Clock::time_point end = start + std::chrono::seconds(options_.seconds);
    std::vector<std::thread> clients;
    for (int i = 0; i < options_.movers; ++i) {
      clients.emplace_back([&, i] {
        while (Clock::now() < end) {
          const double took = MoveOnce(host_->client(), MoverName(i));
          const std::lock_guard<std::mutex> lock(mutex);
          times.push_back(took);
        }
      });
    }
    for (std::thread& client : clients) client.join();
    Round round{.vms = vms, .migrations = static_cast<int>(times.size())};
    round.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const CpuTime after = CpuTimeOf(host_->daemon().pid());
    const CpuTime own = CpuTimeOf(getpid());
    const int each = std::max(round.migrations, 1);
    round.user_ms = (after.user_ms - before.user_ms) / each;
    round.system_ms = (after.system_ms - before.system_ms) / each;
    round.vmms_ms = (after.children_ms - before.children_ms) / each;
    round.clients_ms =
        (own.user_ms + own.system_ms - own_before.user_ms - own_before.system_ms) / each;
    round.busy_ms = (BusyMs() - busy_before) / each;
    round.latency_ms = Summarize(std::move(times));
    round.load = LoadAverage();
    return round;
  }

  const Options& options_;
  std::unique_ptr<HostUnderTest> host_;
  std::vector<harness::Process> movers_;
  IdleVms idle_;
  std::vector<Round> rounds_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("How many migrations per second one daemon gets through");
  app.add_option("--vms", options.vms, "registered, at most")->check(CLI::Range(10, 1000));
  app.add_option("--movers", options.movers, "guests that move, all at once")
      ->check(CLI::Range(1, 10));
  app.add_option("--seconds", options.seconds, "of each round")->check(CLI::Range(1, 600));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  signal(SIGPIPE, SIG_IGN);
  RaiseDescriptorLimit(options.vms);
  ThroughputBench bench(options);
  bench.Run();
  bench.Print(Style::ForStdout());
  if (options.json) printf("%s\n", bench.Json().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
