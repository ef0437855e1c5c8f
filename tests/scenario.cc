// SPDX-License-Identifier: Apache-2.0
#include "tests/scenario.h"

#include <poll.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/api_error.h"
#include "kvmglue/fd_passing.h"
#include "tests/harness/eventually.h"
#include "tests/harness/proc.h"

namespace rehome {

using harness::GuestProbe;
using harness::Holder;
using harness::HostUnderTest;
using v1::Migration;

namespace {

constexpr int kHeartbeatsHeard = 3;

bool HasExited(const UniqueFd& pidfd) {
  pollfd poll_fd{.fd = pidfd.borrow().raw(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 1;
}

size_t Occurrences(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

bool HasMove(Migration::Strategy strategy) {
  return strategy == Migration::LINK_MOVE || strategy == Migration::MAP_MOVE;
}

std::vector<InodeId> InodesOf(const GuestProbe& probe) {
  std::vector<InodeId> inodes;
  for (const harness::GuestMemoryFile& file : probe.files()) inodes.push_back(file.inode);
  return inodes;
}

absl::StatusOr<std::vector<uint64_t>> StepsOf(const GuestProbe& probe) {
  std::vector<uint64_t> steps;
  for (uint32_t vcpu = 0; vcpu < probe.boot_info().vcpu_count; ++vcpu) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(probe, vcpu);
    if (!mailbox.ok()) return mailbox.status();
    steps.push_back(mailbox->steps);
  }
  return steps;
}

// Whether every vCPU has gone on since `before`; says so of a vCPU that stepped back.
bool WentOn(const GuestProbe& probe, const std::vector<uint64_t>& before) {
  const absl::StatusOr<std::vector<uint64_t>> now = StepsOf(probe);
  if (!now.ok()) return false;
  for (size_t i = 0; i < before.size(); ++i) {
    if ((*now)[i] <= before[i]) return false;
  }
  return true;
}

}  // namespace

bool Eventually(const std::function<bool()>& holds) {
  return harness::Eventually(kPatience, holds);
}

std::string ReasonIn(const Migration& record) { return DetailsOf(record.error()).info.reason(); }

void Scenario::StartHost(harness::HostOptions options) {
  options.target_arguments.push_back("--check-on-exit");
  absl::StatusOr<std::unique_ptr<HostUnderTest>> host = HostUnderTest::Start(options);
  ASSERT_TRUE(host.ok()) << host.status();
  host_ = *std::move(host);
}

void Scenario::StartGuest(const harness::VmmOptions& options) {
  Add(options);
  if (!HasFatalFailure()) ExpectGuestLives(guest(options.vm_id));
  ASSERT_FALSE(HasFailure());
}

void Scenario::StartUnseenGuest(const harness::VmmOptions& options) {
  Add(options);
  ASSERT_FALSE(HasFailure());
  FollowedGuest& added = guest(options.vm_id);
  absl::StatusOr<Heartbeats> heard = Heartbeats::Attach(added.console_path, kPatience);
  ASSERT_TRUE(heard.ok()) << heard.status();
  added.heard = *std::move(heard);
  ExpectGuestLives(added);
  ASSERT_FALSE(HasFailure());
}

void Scenario::Add(const harness::VmmOptions& options) {
  harness::VmmOptions checked = options;
  checked.arguments.push_back("--check-on-exit");
  absl::StatusOr<harness::StartedVmm> vmm = host_->StartVmm(checked);
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  FollowedGuest& guest = guests_[options.vm_id];
  guest.vm_id = options.vm_id;
  guest.console_path = vmm->console_path;
  started_.push_back(*std::move(vmm));
}

v1::CreateMigrationRequest Scenario::RequestFor(const std::string& profile,
                                                const std::string& vm_id) const {
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/" + vm_id);
  request.set_target_profile(profile);
  return request;
}

Migration Scenario::Migrate(const v1::CreateMigrationRequest& request) {
  const absl::StatusOr<Migration> created = host_->client().CreateMigration(request);
  EXPECT_TRUE(created.ok()) << created.status();
  return created.ok() ? Watch(created->name()) : Migration();
}

Migration Scenario::Watch(const std::string& name) {
  absl::StatusOr<Migration> last = host_->client().WatchMigration(name, {.timeout = kPatience});
  EXPECT_TRUE(last.ok()) << name << ": " << last.status();
  return last.ok() ? *std::move(last) : Migration();
}

v1::VirtualMachine Scenario::GetVm(const std::string& vm_id) const {
  v1::GetVirtualMachineRequest request;
  request.set_name("virtualMachines/" + vm_id);
  const absl::StatusOr<v1::VirtualMachine> vm = host_->client().GetVirtualMachine(request);
  return vm.ok() ? *vm : v1::VirtualMachine();
}

void Scenario::ExpectGuestLives(FollowedGuest& guest) {
  const pid_t pid = GetVm(guest.vm_id).process().pid();
  ASSERT_NE(pid, 0) << guest.vm_id << " is not listed";
  guest.heard ? Listen(guest, pid) : Look(guest, pid);
  if (HasFatalFailure() || guest.pid == pid) return;
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  guest.pid = pid;
  guest.pidfd = *std::move(pidfd);
}

void Scenario::Listen(FollowedGuest& guest, pid_t pid) {
  const absl::Status heard = guest.heard->Follow(kHeartbeatsHeard, kPatience);
  ASSERT_TRUE(heard.ok()) << guest.vm_id << ": " << heard;
  const std::vector<InodeId> inodes = harness::GuestMemfdsOf(pid);
  ASSERT_FALSE(inodes.empty()) << "process " << pid << " has no guest memory";
  if (guest.inodes.empty()) guest.inodes = inodes;
  EXPECT_EQ(inodes, guest.inodes) << "the guest's memory is in other files than before";
}

void Scenario::Look(FollowedGuest& guest, pid_t pid) {
  absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(pid);
  // A guest that has just been started may not have been loaded yet.
  EXPECT_TRUE(Eventually([&] {
    if (!probe.ok()) probe = GuestProbe::Attach(pid);
    return probe.ok() && WentOn(*probe, guest.steps);
  })) << guest.vm_id
      << " does not go on in process " << pid;
  ASSERT_TRUE(probe.ok()) << probe.status();
  const absl::StatusOr<std::vector<uint64_t>> here = StepsOf(*probe);
  ASSERT_TRUE(here.ok()) << here.status();
  // From now on, and not only up to where it was copied to.
  EXPECT_TRUE(Eventually([&] { return WentOn(*probe, *here); })) << guest.vm_id << " stands still";
  {
    const absl::StatusOr<harness::ScopedStop> stop = harness::ScopedStop::Stop(pid, kPatience);
    ASSERT_TRUE(stop.ok()) << stop.status();
    const absl::StatusOr<GuestReport> report = guest.checker.Check(*probe);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->intact) << report->difference;
    EXPECT_EQ(report->errors, 0u);
    const absl::StatusOr<std::vector<uint64_t>> steps = StepsOf(*probe);
    ASSERT_TRUE(steps.ok()) << steps.status();
    guest.steps = *steps;
  }
  if (guest.inodes.empty()) guest.inodes = InodesOf(*probe);
  EXPECT_EQ(InodesOf(*probe), guest.inodes) << "the guest's memory is in other files than before";
}

void Scenario::ExpectStayed(FollowedGuest& guest) {
  const pid_t before = guest.pid;
  ExpectGuestLives(guest);
  EXPECT_EQ(guest.pid, before) << "the guest has left";
}

void Scenario::ExpectProof(const Migration& record, const Move& move, const FollowedGuest& guest) {
  const v1::FenceProof& proof = record.fence_proof();
  EXPECT_TRUE(proof.complete());
  EXPECT_TRUE(proof.process_exited());
  // The kernel's word comes from the source's process; one that is dead already cannot give it.
  EXPECT_TRUE(!proof.kernel_vm_dead() || HasMove(move.strategy));
  EXPECT_EQ(proof.stopped_before_resume(), move.policy == Migration::BEFORE_RESUME);
  EXPECT_EQ(proof.observer(), "rehomed");
  EXPECT_EQ(proof.source().pid(), guest.pid);
  EXPECT_NE(proof.source().start_ticks(), 0);
  EXPECT_NE(proof.exited_monotonic_ns(), 0);
  EXPECT_EQ(static_cast<size_t>(proof.inodes_checked()), guest.inodes.size());
  EXPECT_EQ(proof.foreign_holders_size(), 0);
  for (const v1::FenceProof::InodeSearch& search : proof.memory()) {
    EXPECT_TRUE(std::any_of(search.holders().begin(), search.holders().end(),
                            [&](const v1::FenceProof::Holder& holder) {
                              return holder.holder_class() == v1::FenceProof::TARGET &&
                                     holder.pid() == record.target().pid();
                            }))
        << search.ShortDebugString();
  }
  EXPECT_GE(proof.search_monotonic_ns(), proof.exited_monotonic_ns());
  EXPECT_NE(proof.kernel_release(), "");
  if (move.policy != Migration::BEFORE_RESUME) return;
  EXPECT_GT(proof.tasks_stopped_monotonic_ns(), 0);
  EXPECT_GE(proof.exited_monotonic_ns(), proof.tasks_stopped_monotonic_ns());
}

void Scenario::ExpectBlackout(const Migration& record, const Move& move) {
  ASSERT_TRUE(record.has_blackout());
  ASSERT_TRUE(record.blackout().has_phases()) << "a time stamp is missing or out of order";
  const v1::Blackout::Phases& phases = record.blackout().phases();
  EXPECT_GT(phases.stop_vcpus_ns(), 0);
  EXPECT_GT(phases.save_state_ns(), 0);
  EXPECT_GT(phases.claim_ns(), 0);
  EXPECT_EQ(phases.move_ns() > 0, HasMove(move.strategy)) << phases.move_ns();
  EXPECT_GT(phases.restore_state_ns(), 0);
  EXPECT_EQ(phases.fence_ns() > 0, move.policy == Migration::BEFORE_RESUME) << phases.fence_ns();
  EXPECT_GT(phases.resume_ns(), 0);
  EXPECT_EQ(phases.stop_vcpus_ns() + phases.save_state_ns() + phases.claim_ns() + phases.move_ns() +
                phases.restore_state_ns() + phases.fence_ns() + phases.resume_ns(),
            record.blackout().total_ns());
}

void Scenario::ExpectMoved(const Migration& record, FollowedGuest& guest, const Move& move) {
  SCOPED_TRACE(record.name());
  ASSERT_EQ(record.state(), Migration::SUCCEEDED) << record.DebugString();
  EXPECT_EQ(record.guest_owner(), Migration::TARGET);
  EXPECT_FALSE(record.has_error()) << record.error().DebugString();
  EXPECT_EQ(record.strategy(), move.strategy);
  EXPECT_EQ(record.fence_policy(), move.policy);
  EXPECT_TRUE(record.guest_paused());
  for (const v1::PreflightCheck& check : record.preflight_checks()) {
    EXPECT_NE(check.result(), v1::PreflightCheck::FAILED) << check.DebugString();
  }
  EXPECT_GT(record.preflight_checks_size(), 0);
  ExpectProof(record, move, guest);
  ExpectBlackout(record, move);

  EXPECT_EQ(record.source().pid(), guest.pid);
  EXPECT_NE(record.target().pid(), guest.pid);
  EXPECT_TRUE(HasExited(guest.pidfd)) << "the source lives after SUCCEEDED";
  const v1::VirtualMachine vm = GetVm(guest.vm_id);
  EXPECT_EQ(vm.process().pid(), record.target().pid()) << "not listed under the new VMM";
  EXPECT_EQ(vm.process().vmm(), record.target().vmm());
  ExpectGuestLives(guest);
  EXPECT_EQ(guest.pid, record.target().pid());
  ExpectNothingLeft();
}

void Scenario::ExpectFailed(const Migration& record, FollowedGuest& guest,
                            const std::string& reason, Migration::State state) {
  SCOPED_TRACE(record.name());
  EXPECT_EQ(record.state(), state) << record.DebugString();
  EXPECT_EQ(record.guest_owner(), Migration::SOURCE) << record.DebugString();
  EXPECT_EQ(ReasonIn(record), reason) << record.error().DebugString();
  EXPECT_NE(record.error().message(), "");
  ExpectStayed(guest);
  ExpectNothingLeft();
}

void Scenario::ExpectNothingLeft() {
  std::set<pid_t> expected = {host_->daemon().pid()};
  std::vector<InodeId> inodes;
  for (const auto& [vm_id, guest] : guests_) {
    inodes.insert(inodes.end(), guest.inodes.begin(), guest.inodes.end());
    if (!guest.lost) expected.insert(GetVm(vm_id).process().pid());
  }
  std::set<pid_t> processes;
  // A process that was killed is seen dead by the daemon an instant before /proc lets it go.
  EXPECT_TRUE(Eventually([&] {
    const std::vector<pid_t> found = host_->Processes();
    processes = std::set<pid_t>(found.begin(), found.end());
    return processes == expected;
  })) << "processes "
      << testing::PrintToString(processes) << ", expected " << testing::PrintToString(expected);
  std::vector<Holder> others;
  EXPECT_TRUE(Eventually([&] {
    others = harness::HoldersOf(inodes);
    std::erase_if(others, [&](const Holder& holder) {
      return holder.pid != host_->daemon().pid() && expected.contains(holder.pid);
    });
    return others.empty();
  })) << others.front().executable
      << " (" << others.front().pid << ") holds guest memory by " << others.front().how;
}

void Scenario::ExpectIntactAtTheEnd() {
  const absl::Status down = host_->ShutDown();
  EXPECT_TRUE(down.ok()) << down;
  const auto alive = static_cast<size_t>(std::count_if(
      guests_.begin(), guests_.end(), [](const auto& entry) { return !entry.second.lost; }));
  const std::string logs = host_->VmmLogs();
  EXPECT_EQ(Occurrences(logs, "the guest is intact: "), alive);
  EXPECT_FALSE(absl::StrContains(logs, "the guest is NOT intact"));
}

void Scenario::TearDown() {
  if (host_ == nullptr) return;
  ExpectIntactAtTheEnd();
  if (HasFailure()) {
    ADD_FAILURE() << "rehomed's log:\n"
                  << host_->DaemonLog() << "\nThe VMMs' logs:\n"
                  << host_->VmmLogs();
  }
  started_.clear();
  host_.reset();
}

}  // namespace rehome
