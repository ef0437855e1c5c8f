// SPDX-License-Identifier: Apache-2.0
//
// An unmodified Linux moves from one VMM process to the next while it works, and both sides say
// afterwards whether anything was lost: docs/linux-workload.md. Runs inside the kernel room's
// machine (`./dev demo --guest=linux`) or wherever KVM runs Linux.
#include <stdio.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/linux_guest/host/judge.h"
#include "bench/linux_guest/host/report.h"
#include "bench/linux_guest/host/session.h"
#include "bench/linux_host.h"
#include "bench/terminal.h"
#include "tests/harness/console_client.h"
#include "tests/harness/host_under_test.h"

namespace rehome::bench {
namespace {

using linux_guest::Session;

constexpr char kVmId[] = "linux";
// The one that knows Linux guests (vmm/reference/version.h).
constexpr int kVersion = 2;
constexpr char kTap[] = "rehome0";
constexpr char kHostAddress[] = "192.168.77.1";
constexpr char kGuestAddress[] = "192.168.77.2";
// 4096 records: a slot is overwritten many times in a long run, and a check reads them all.
constexpr uint64_t kDiskBytes = 16 << 20;
constexpr std::chrono::milliseconds kAttachTimeout{60'000};
// The exit status that says so (kernel/linux_demo.py: NOT_BOOTED).
constexpr int kNotBooted = 3;
// Looks before the first move, for each move, and at least: what the machine's clocks do by
// themselves has to be seen for as long as what they do under moves, and a move with its look takes
// three times as long as a look (measured).
constexpr int kLooksPerMove = 3;
constexpr int kMinLooksBefore = 5;

// An emulated machine takes longer for everything than the daemon's defaults allow.
const std::vector<std::string> kSlowMachine = {
    "handover_timeout_ms = 10000", "resolve_timeout_ms = 60000", "deadline_ms = 600000"};

struct DemoArguments {
  std::string image;
  std::string initramfs;
  std::string more_cmdline;
  int hops = 20;
  uint32_t vcpus = 2;
  uint64_t memory_mib = 128;
  uint64_t stream_rate = 256 << 10;
  // Two layers of emulation take half a minute where nothing else runs.
  int boot_seconds = 600;
  bool json = false;
};

void Line(const std::string& text) {
  printf("%s\n", text.c_str());
  fflush(stdout);
}

class LinuxDemo {
 public:
  explicit LinuxDemo(const DemoArguments& arguments) : arguments_(arguments) {}

  int Run() {
    absl::Status status = StartGuest();
    if (absl::IsAborted(status)) return NotBooted(status);
    if (!status.ok()) return Fail("the guest does not start", status);
    for (int i = 0; i < std::max(kMinLooksBefore, kLooksPerMove * arguments_.hops); ++i) {
      if (status = session_->Look(); !status.ok()) return Fail("before the first move", status);
    }
    Line("moving it");
    session_->BeginHops(static_cast<uint64_t>(arguments_.hops));
    for (int number = 1; number <= arguments_.hops; ++number) {
      if (status = Hop(number); !status.ok()) {
        session_->BlameHop(absl::StrCat("move ", number, ": ", std::string(status.message())));
        break;
      }
    }
    return Tell();
  }

 private:
  absl::Status StartGuest() {
    absl::StatusOr<std::unique_ptr<TapInterface>> tap = TapInterface::Make(kTap, kHostAddress);
    if (!tap.ok()) return tap.status();
    tap_ = *std::move(tap);
    absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host =
        harness::HostUnderTest::Start({.kernel = "kvm", .daemon_lines = kSlowMachine});
    if (!host.ok()) return host.status();
    host_ = *std::move(host);
    const std::string disk = host_->directory() + "/disk.img";
    if (absl::Status status = MakeDisk(disk, kDiskBytes); !status.ok()) return status;
    absl::StatusOr<harness::StartedVmm> vmm =
        host_->StartVmm({.vm_id = kVmId,
                         .version = kVersion,
                         .memory_mib = arguments_.memory_mib,
                         .vcpus = arguments_.vcpus,
                         .arguments = {"--linux", arguments_.image, "--initramfs",
                                       arguments_.initramfs, "--cmdline", Cmdline(),
                                       "--memory-kind", "memfd", "--disk", disk, "--tap", kTap}});
    if (!vmm.ok()) return vmm.status();
    vmm_ = *std::move(vmm);
    absl::StatusOr<harness::ConsoleClient> console =
        harness::ConsoleClient::Attach(vmm_.console_path, kAttachTimeout);
    if (!console.ok()) return console.status();
    Line("booting Linux in rehome-vmm ...");
    absl::StatusOr<std::unique_ptr<Session>> session = Session::Start(
        *std::move(console), {.address = kGuestAddress,
                              .disk_path = disk,
                              .echo = {.bytes_per_second = arguments_.stream_rate},
                              .boot_timeout = std::chrono::seconds(arguments_.boot_seconds)});
    if (!session.ok()) return session.status();
    session_ = *std::move(session);
    Line("it works; looking at it for as long as it will be moved");
    return absl::OkStatus();
  }

  std::string Cmdline() const {
    return absl::StrCat("console=ttyS0 panic=-1 rehome.ip=", kGuestAddress, "/24",
                        arguments_.more_cmdline.empty() ? "" : " ", arguments_.more_cmdline);
  }

  absl::Status Hop(int number) {
    if (absl::Status status = session_->Mark(); !status.ok()) return status;
    const absl::StatusOr<v1::Migration> migration = host_->Migrate(
        kVmId, harness::ProfileOfVersion(kVersion), v1::Migration::FENCE_POLICY_UNSPECIFIED);
    if (!migration.ok()) return migration.status();
    if (migration->state() != v1::Migration::SUCCEEDED) {
      return absl::InternalError(absl::StrCat(v1::Migration::State_Name(migration->state()), ": ",
                                              migration->error().message()));
    }
    session_->CountHop();
    const absl::StatusOr<uint64_t> gap = session_->LongestGap();
    if (!gap.ok()) return gap.status();
    if (absl::Status status = session_->Look(); !status.ok()) return status;
    blackouts_us_.push_back(static_cast<double>(migration->blackout().total_ns()) / 1000);
    gaps_us_.push_back(static_cast<double>(*gap) / 1000);
    const linux_guest::TimeSample& time = session_->last_time();
    Line(absl::StrFormat(
        "  move %d/%d: blackout %s, the guest's longest gap %s, wall clock %.3f ms from the host's "
        "(+- %.3f)",
        number, arguments_.hops, FormatMicros(blackouts_us_.back()), FormatMicros(gaps_us_.back()),
        static_cast<double>(time.offset) / 1e6, static_cast<double>(time.error) / 1e6));
    return absl::OkStatus();
  }

  int Tell() {
    const linux_guest::Evidence evidence = session_->Finish();
    const std::vector<linux_guest::Verdict> verdicts = linux_guest::Judge(evidence);
    bool good = linux_guest::AllKept(verdicts);
    if (!good) Complain();
    session_.reset();
    const absl::Status ended = host_->ShutDown();
    if (!ended.ok()) {
      good = false;
      Line("at the end: " + std::string(ended.message()));
    }
    for (const std::string& line : linux_guest::VerdictLines(Style::ForStdout(), verdicts)) {
      Line(line);
    }
    if (arguments_.json) {
      nlohmann::ordered_json account = linux_guest::ToJson(evidence, verdicts);
      account["kept"] = good;
      account["vcpus"] = arguments_.vcpus;
      account["memory_mib"] = arguments_.memory_mib;
      account["blackout_us"] = blackouts_us_;
      account["guest_gap_us"] = gaps_us_;
      Line(account.dump());
    }
    return good ? 0 : 1;
  }

  void Complain() {
    fflush(stdout);
    fprintf(stderr, "--- rehomed\n%s%s--- the end of the console\n%s", host_->DaemonLog().c_str(),
            host_->VmmLogs().c_str(), session_ == nullptr ? "" : session_->ConsoleTail().c_str());
  }

  // No fault of a move, nor of this program: whoever has another machine tries there.
  int NotBooted(const absl::Status& status) {
    fprintf(stderr, "linux_demo: %s\n", std::string(status.message()).c_str());
    return kNotBooted;
  }

  int Fail(const std::string& what, const absl::Status& status) {
    fprintf(stderr, "linux_demo: %s: %s\n", what.c_str(), std::string(status.message()).c_str());
    if (host_ != nullptr) Complain();
    return 1;
  }

  const DemoArguments& arguments_;
  std::unique_ptr<TapInterface> tap_;
  std::unique_ptr<harness::HostUnderTest> host_;
  harness::StartedVmm vmm_;
  std::unique_ptr<Session> session_;
  std::vector<double> blackouts_us_;
  std::vector<double> gaps_us_;
};

int Main(int argc, char** argv) {
  DemoArguments arguments;
  CLI::App app("An unmodified Linux moves while it works");
  app.add_option("--image", arguments.image, "bzImage of the guest")->required();
  app.add_option("--initramfs", arguments.initramfs, "//bench/linux_guest:initramfs")->required();
  app.add_option("--cmdline", arguments.more_cmdline, "added to the guest's command line");
  app.add_option("--hops", arguments.hops)->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--vcpus", arguments.vcpus)->check(CLI::Range(1, 8))->capture_default_str();
  app.add_option("--memory", arguments.memory_mib, "MiB")
      ->check(CLI::Range(64, 4096))
      ->capture_default_str();
  app.add_option("--stream-rate", arguments.stream_rate, "bytes per second, at most")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  app.add_option("--boot-seconds", arguments.boot_seconds,
                 "how long the guest may boot; exit status 3 if it does not")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  app.add_flag("--json", arguments.json, "one JSON object as the last line");
  CLI11_PARSE(app, argc, argv);
  return LinuxDemo(arguments).Run();
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
