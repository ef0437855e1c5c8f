// SPDX-License-Identifier: Apache-2.0
#include "tests/crash_sweep/crash_case.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/api_error.h"
#include "tests/harness/eventually.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/proc.h"
#include "tests/preload_page.h"
#include "vmm/reference/guest_check.h"

namespace rehome {

using harness::Eventually;
using harness::GuestProbe;
using harness::ScopedStop;
using std::chrono::milliseconds;
using v1::Migration;

namespace {

// Bound of every wait for something that must happen, on a machine that is busy otherwise.
constexpr milliseconds kPatience{120'000};
// For descriptors and processes that go by themselves when a migration has ended.
constexpr milliseconds kLeaves{10'000};
// A stopped process is given so long to show that the guest runs all the same, elsewhere.
constexpr milliseconds kStillness{20};
constexpr uint64_t kMemoryMib = 8;
// A busy machine must not decide how the story goes: long deadlines, which nobody waits for.
constexpr char kLongHandover[] = "handover_timeout_ms = 10000";
constexpr char kLongExit[] = "exit_timeout_ms = 60000";

std::string Brief(const Migration& record) {
  return absl::StrCat(Migration::State_Name(record.state()), " ",
                      Migration::GuestOwner_Name(record.guest_owner()), " ",
                      DetailsOf(record.error()).info.reason());
}

}  // namespace

CrashCase::~CrashCase() {
  watch_.reset();
  host_.reset();
  if (page_ != nullptr) munmap(page_, sizeof(*page_));
}

CrashResult CrashCase::Run() {
  absl::Status status = MapPage();
  if (status.ok()) status = StartHost();
  if (status.ok()) status = StartGuest();
  if (status.ok()) status = Migrate();
  if (status.ok() && result_.crashed) status = RestartDaemon();
  if (status.ok()) status = AwaitEnd();
  if (status.ok()) Judge();
  if (!status.ok()) Problem(status.ToString());
  if (!result_.problems.empty() && host_ != nullptr) {
    Problem("record: " + result_.record.ShortDebugString());
    Problem("rehomed: " + host_->DaemonLog() + "\nVMMs: " + host_->VmmLogs());
  }
  return std::move(result_);
}

absl::Status CrashCase::MapPage() {
  page_ = MapPreloadPage<JournalCrashPage>(directory_.File("page").c_str(), O_CREAT);
  return page_ == nullptr ? absl::ErrnoToStatus(errno, "crash page") : absl::OkStatus();
}

absl::Status CrashCase::StartHost() {
  absl::StatusOr<std::unique_ptr<harness::ServiceManager>> manager =
      harness::ServiceManager::Open();
  if (!manager.ok()) return manager.status();
  manager_ = *std::move(manager);
  harness::HostOptions options = {
      .kernel = "sim",
      .daemon_lines = {kLongHandover, kLongExit},
      .target_arguments = {"--check-on-exit"},
      .daemon_environment = {{"LD_PRELOAD",
                              harness::BinaryPath("tests/crash_sweep/libjournal_crash.so")},
                             {kJournalCrashVariable, directory_.File("page")}},
      .service_manager = manager_.get()};
  if (!story_.first_target_dies_at.empty()) {
    options.target_arguments.push_back("--die-at=" + story_.first_target_dies_at);
    options.target_arguments.push_back("--once=" + directory_.File("has-died"));
  }
  absl::StatusOr<std::unique_ptr<harness::HostUnderTest>> host =
      harness::HostUnderTest::Start(options);
  if (!host.ok()) return host.status();
  host_ = *std::move(host);
  return absl::OkStatus();
}

absl::Status CrashCase::StartGuest() {
  harness::VmmOptions options = {.vm_type = story_.vm_type, .memory_mib = kMemoryMib};
  // The guest takes few steps, so that recomputing them is cheap.
  options.arguments = {"--check-on-exit", "--heartbeat-ms=0", "--step-ns=20000",
                       "--working-set-pages=64"};
  if (!story_.memory_kind.empty()) {
    options.arguments.push_back("--memory-kind=" + story_.memory_kind);
  }
  absl::StatusOr<harness::StartedVmm> vmm = host_->StartVmm(options);
  if (!vmm.ok()) return vmm.status();
  source_ = *std::move(vmm);
  source_pid_ = source_.process.pid();
  // Registered a moment before the guest is loaded.
  absl::StatusOr<std::unique_ptr<harness::GuestWatch>> watch = absl::NotFoundError("no guest");
  absl::StatusOr<GuestProbe> probe = absl::NotFoundError("no guest");
  Eventually(kPatience, [&] {
    probe = GuestProbe::Attach(source_pid_);
    if (probe.ok()) watch = harness::GuestWatch::Start(source_pid_);
    return watch.ok();
  });
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  for (const harness::GuestMemoryFile& file : probe->files()) inodes_.push_back(file.inode);
  if (!watch_->AwaitProgress(kPatience)) return absl::InternalError("the guest never ran");
  absl::StatusOr<harness::Footprint> footprint = harness::FootprintOf(*host_);
  if (!footprint.ok()) return footprint.status();
  footprint_ = *std::move(footprint);
  return absl::OkStatus();
}

absl::Status CrashCase::Migrate() {
  page_->crash_at.store(point_.append);
  page_->is_before.store(point_.is_before ? 1 : 0);
  page_->armed.store(1);
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/guest");
  request.set_target_profile(harness::ProfileOfVersion(2));
  request.set_fence_policy(story_.policy);
  const absl::StatusOr<Migration> created = host_->client().CreateMigration(request);
  const bool done = Eventually(kPatience, [&] {
    if (page_->crashed.load() != 0) return true;
    if (!created.ok()) return false;
    v1::GetMigrationRequest get;
    get.set_name(created->name());
    const absl::StatusOr<Migration> now = host_->client().GetMigration(get);
    return now.ok() && IsFinished(*now);
  });
  if (!done) return absl::DeadlineExceededError("the daemon neither dies nor ends the migration");
  result_.crashed = page_->crashed.load() != 0;
  result_.appends = page_->appends.load();
  page_->armed.store(0);
  return absl::OkStatus();
}

absl::Status CrashCase::RestartDaemon() {
  const absl::StatusOr<int> exit = host_->daemon().WaitExit(kPatience);
  if (!exit.ok()) return exit.status();
  if (!WIFSIGNALED(*exit) || WTERMSIG(*exit) != SIGKILL) {
    return absl::InternalError(absl::StrCat("the daemon ended with ", *exit));
  }
  return host_->StartDaemon();
}

// Empty: the daemon knows of none.
absl::StatusOr<std::string> CrashCase::FindMigration() {
  const absl::StatusOr<v1::ListMigrationsResponse> list = host_->client().ListMigrations({});
  if (!list.ok()) return list.status();
  if (list->migrations_size() > 1) return absl::InternalError("two migrations");
  return list->migrations_size() == 0 ? "" : list->migrations(0).name();
}

absl::StatusOr<Migration> CrashCase::Watch(const std::string& name) {
  return host_->client().WatchMigration(name, {.timeout = kPatience});
}

absl::Status CrashCase::AwaitEnd() {
  const absl::StatusOr<std::string> name = FindMigration();
  if (!name.ok()) return name.status();
  if (name->empty()) {
    // Not on record: it was not begun.
    result_.ending = "not admitted";
    if (point_.append != 1 || !point_.is_before) Problem("the migration is forgotten");
    return absl::OkStatus();
  }
  absl::StatusOr<Migration> record = Watch(*name);
  if (record.ok() && record->state() == Migration::INDETERMINATE) {
    result_.ending = "resolved, ";
    v1::ResolveMigrationRequest resolve;
    resolve.set_name(*name);
    const absl::Status resolved = host_->client().ResolveMigration(resolve).status();
    if (!resolved.ok()) return resolved;
    record = Watch(*name);
  }
  if (!record.ok()) return record.status();
  result_.record = *std::move(record);
  result_.ending += Brief(result_.record);
  return absl::OkStatus();
}

void CrashCase::Judge() {
  const Migration& record = result_.record;
  const bool known = !record.name().empty();
  const bool on_target = record.guest_owner() == Migration::TARGET;
  if (known && !on_target && record.guest_owner() != Migration::SOURCE) {
    return Problem("nobody owns the guest");
  }
  if (known && (record.state() == Migration::SUCCEEDED) != on_target) {
    Problem("its state and its owner contradict each other");
  }
  if (on_target && !record.fence_proof().complete()) Problem("without a complete proof");
  if (known && !on_target && DetailsOf(record.error()).info.reason().empty()) {
    Problem("without a reason");
  }
  const pid_t owner = on_target ? record.target().pid() : source_pid_;
  watch_->AddProcess(owner);
  JudgeGuest(owner);
  for (const std::string& violation : watch_->violations()) Problem(violation);
  JudgeRemains(owner);
}

// It goes on in `owner`, nowhere else, and has missed and repeated nothing since it was started.
void CrashCase::JudgeGuest(pid_t owner) {
  if (!watch_->AwaitProgress(kPatience)) return Problem("nobody runs the guest");
  {
    const absl::StatusOr<ScopedStop> stop = ScopedStop::Stop(owner, kPatience);
    const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(owner);
    if (!stop.ok() || !probe.ok()) return Problem("its owner cannot be looked into");
    const absl::StatusOr<GuestReport> report = GuestChecker().Check(*probe);
    if (!report.ok()) return Problem(report.status().ToString());
    if (!report->intact) Problem("the guest is damaged: " + report->difference);
    if (report->errors != 0) Problem(absl::StrCat("the guest counts ", report->errors, " errors"));
    if (watch_->AwaitProgress(kStillness)) Problem("the guest also runs somewhere else");
  }
  if (!watch_->AwaitProgress(kPatience)) Problem("the guest does not go on");
  const bool listed = Eventually(kLeaves, [&] {
    const absl::StatusOr<v1::VirtualMachine> vm = host_->GetVm("guest");
    return vm.ok() && vm->process().pid() == owner && vm->active_migration().empty();
  });
  if (!listed) Problem("the VM is not listed under its owner, or not free");
}

void CrashCase::JudgeRemains(pid_t owner) {
  for (const std::string& left :
       harness::FindLeftovers(*host_, footprint_, {owner}, inodes_, kLeaves)) {
    Problem("left over: " + left);
  }
  const bool emptied = Eventually(kLeaves, [&] { return manager_->stored().empty(); });
  if (!emptied) Problem("the service manager still keeps descriptors");
  if (const absl::Status down = host_->ShutDown(); !down.ok()) Problem(down.ToString());
  for (const std::string& left : harness::FindRemains(*host_, inodes_)) {
    Problem("after the shutdown: " + left);
  }
  if (absl::StrContains(host_->VmmLogs(), "the guest is NOT intact")) {
    Problem("a VMM found its guest damaged");
  }
}

}  // namespace rehome
