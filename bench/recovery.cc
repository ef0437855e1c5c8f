// SPDX-License-Identifier: Apache-2.0
//
// How long a host is without its daemon when that is killed: a rehomed with many VMs registered and
// many finished migrations in its journal gets SIGKILL and is started again. From exec to SERVING,
// and until every VM is listed again; and what a migration costs in the journal.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/host_info.h"
#include "bench/many_vms.h"
#include "bench/percentile.h"
#include "bench/terminal.h"
#include "client/migration_client.h"
#include "daemon/journal.h"
#include "nlohmann/json.hpp"
#include "tests/harness/fake_agent.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/proc.h"

namespace rehome::bench {
namespace {

using harness::FakeAgent;
using harness::HostUnderTest;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kAgentTimeout{60'000};
constexpr milliseconds kListTimeout{60'000};
// As agents do it (docs/agent-protocol.md).
constexpr milliseconds kReconnect{200};
constexpr int kListPage = 1000;
constexpr int kTransitions = 6;  // of a migration that succeeds
// What the project promises.
constexpr double kMaxServingMs = 1000;

struct Options {
  int vms = 1000;
  int finished = 10'000;
  int runs = 5;
  bool json = false;
};

double MsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// As large as the record of a migration of the reference VMM.
Migration FinishedMigration(int number) {
  Migration record;
  record.id = absl::StrFormat("m-%016x", number);
  record.request = {.request_id = absl::StrFormat("00000000-0000-0000-0000-%012d", number),
                    .vm_id = absl::StrCat("vm-", number % 1000),
                    .target_profile = "rehome-vmm-2",
                    .requested_by = "uid=0 pid=12345"};
  for (int i = 0; i < 20; ++i) {
    record.preflight.push_back({.name = absl::StrCat("a_check_of_usual_length_", i),
                                .detail = "what was compared, in about forty bytes"});
  }
  record.source = record.target = {12345, 987654321, 4242424242};
  record.source_vmm = record.target_vmm = "rehome-vmm 1.0";
  record.memory_inodes = {{1, 23456}};
  record.phases = {1, 2, 3, 4, 5, 6, 7, 8};
  record.fence.process_exited = true;
  record.fence.observer = {"rehomed", record.source};
  record.fence.search.memory = {{.inode = record.memory_inodes.front(),
                                 .holders = {{12345, "rehome-vmm-2", "fd", HolderClass::kTarget},
                                             {4321, "rehomed", "fd", HolderClass::kDaemon}}}};
  record.fence.kernel_release = "6.18.0-amd64";
  record.boot_id = "00000000-0000-0000-0000-000000000000";
  record.create_time_unix_ns = record.end_time_unix_ns = 1'700'000'000'000'000'000;
  return record;
}

void FillJournal(const std::string& directory, int finished) {
  const std::unique_ptr<Journal> journal = Check(OpenSqliteJournal(directory), "journal");
  for (int number = 1; number <= finished; ++number) {
    Migration record = FinishedMigration(number);
    for (int revision = 1; revision <= kTransitions; ++revision) {
      record.revision = static_cast<uint64_t>(revision);
      const bool last = revision == kTransitions;
      record.state = last ? MigrationState::kSucceeded : MigrationState::kPreparing;
      record.step = last ? Step::kDone : Step::kPreflight;
      record.owner = last ? GuestOwner::kTarget : GuestOwner::kSource;
      Check(journal->Append(record), "append");
    }
  }
}

class RecoveryBench {
 public:
  explicit RecoveryBench(const Options& options) : options_(options) {}

  void Run() {
    host_ = Check(HostUnderTest::Start({.kernel = "sim"}), "start");
    Check(host_->StopDaemon().status(), "stop");
    FillJournal(host_->state_directory(), options_.finished);
    journal_bytes_ = JournalBytes();
    Check(host_->StartDaemon(), "start with a journal");
    agents_.resize(static_cast<size_t>(options_.vms));
    ConnectAll();
    AwaitListed();
    for (int run = 0; run < options_.runs; ++run) RunOnce();
    rss_bytes_ = Check(harness::StatusBytes(host_->daemon().pid(), "VmRSS"), "VmRSS");
  }

  void Print(const Style& style) const {
    const Summary serving = Summarize(serving_ms_), listed = Summarize(listed_ms_);
    printf("%s, load %.1f\n\n", MachineLine().c_str(), LoadAverage());
    printf("  %d VMs registered, %d finished migrations; killed and started again %d times\n",
           options_.vms, options_.finished, options_.runs);
    printf("  from exec to SERVING               %8.1f ms   %s under %.0f ms  (max %.1f)\n",
           serving.p50, (serving.max < kMaxServingMs ? style.Passed() : style.Failed()).c_str(),
           kMaxServingMs, serving.max);
    printf("  until every VM is listed again     %8.1f ms   (max %.1f; agents try every 200 ms)\n",
           listed.p50, listed.max);
    printf("  journal, each finished migration   %8.0f bytes\n", BytesPerMigration());
    printf("  daemon, after that                 %8.1f MiB RSS\n\n",
           static_cast<double>(rss_bytes_) / (1 << 20));
  }

  nlohmann::ordered_json Json() const {
    const Summary serving = Summarize(serving_ms_), listed = Summarize(listed_ms_);
    return {{"vms", options_.vms},
            {"finished", options_.finished},
            {"runs", options_.runs},
            {"serving_ms", {{"p50", serving.p50}, {"max", serving.max}}},
            {"listed_ms", {{"p50", listed.p50}, {"max", listed.max}}},
            {"journal_bytes_per_migration", BytesPerMigration()},
            {"rss_mib", static_cast<double>(rss_bytes_) / (1 << 20)},
            {"load", LoadAverage()}};
  }

 private:
  double BytesPerMigration() const {
    return static_cast<double>(journal_bytes_) / std::max(options_.finished, 1);
  }

  uint64_t JournalBytes() const {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(host_->state_directory())) {
      if (entry.path().filename().string().starts_with("journal.db")) bytes += entry.file_size();
    }
    return bytes;
  }

  // Every agent tries at its own moment within each kReconnect, until it is registered.
  void ConnectAll() {
    const Clock::time_point start = Clock::now();
    std::vector<std::pair<Clock::time_point, size_t>> waiting;
    for (size_t i = 0; i < agents_.size(); ++i) {
      waiting.emplace_back(start + kReconnect * i / agents_.size(), i);
    }
    while (!waiting.empty()) {
      std::vector<std::pair<Clock::time_point, size_t>> again;
      for (const auto& [at, i] : waiting) {
        std::this_thread::sleep_until(at);
        absl::StatusOr<FakeAgent> agent = FakeAgent::Connect(host_->agent_socket());
        if (!agent.ok()) {
          again.emplace_back(at + kReconnect, i);
          continue;
        }
        Check(agent->Register(absl::StrCat("vm-", i), kAgentTimeout), "register");
        agents_[i] = *std::move(agent);
      }
      waiting = std::move(again);
    }
  }

  void AwaitListed() {
    // A client of its own: one that has seen the daemon go waits up to a second before it looks.
    MigrationClient client(ClientOptions{.socket_path = host_->api_socket()});
    const Clock::time_point deadline = Clock::now() + kListTimeout;
    while (Clock::now() < deadline) {
      int listed = 0;
      v1::ListVirtualMachinesRequest request;
      request.set_page_size(kListPage);
      do {
        const v1::ListVirtualMachinesResponse page =
            Check(client.ListVirtualMachines(request), "list");
        listed += page.virtual_machines_size();
        request.set_page_token(page.next_page_token());
      } while (!request.page_token().empty());
      if (listed == options_.vms) return;
    }
    Check(absl::DeadlineExceededError("not all VMs came back"), "list");
  }

  void RunOnce() {
    host_->KillDaemon();
    for (FakeAgent& agent : agents_) agent = FakeAgent();
    const Clock::time_point start = Clock::now();
    std::thread reconnecting([this] { ConnectAll(); });
    Check(host_->StartDaemon(), "start again");
    serving_ms_.push_back(MsSince(start));
    AwaitListed();
    listed_ms_.push_back(MsSince(start));
    reconnecting.join();
  }

  const Options& options_;
  std::unique_ptr<HostUnderTest> host_;
  std::vector<FakeAgent> agents_;
  std::vector<double> serving_ms_, listed_ms_;
  uint64_t journal_bytes_ = 0;
  uint64_t rss_bytes_ = 0;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("How long a host is without its daemon when that is killed");
  app.add_option("--vms", options.vms, "registered")->check(CLI::Range(1, 8192));
  app.add_option("--finished", options.finished, "migrations in the journal")
      ->check(CLI::Range(0, static_cast<int>(kMaxFinishedMigrations)));
  app.add_option("--runs", options.runs, "kills")->check(CLI::Range(1, 1000));
  app.add_flag("--json", options.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);

  signal(SIGPIPE, SIG_IGN);
  RaiseDescriptorLimit(options.vms);
  RecoveryBench bench(options);
  bench.Run();
  bench.Print(Style::ForStdout());
  if (options.json) printf("%s\n", bench.Json().dump().c_str());
  return 0;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
