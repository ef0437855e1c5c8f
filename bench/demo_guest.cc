// SPDX-License-Identifier: Apache-2.0
#include "bench/demo_guest.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd_passing.h"
#include "tests/harness/console_client.h"
#include "tests/harness/page_frames.h"
#include "tests/harness/proc.h"

namespace rehome::bench {
namespace {

using harness::GuestProbe;
using harness::PageFrames;

constexpr char kVmId[] = "demo";
constexpr int kOldVersion = 1;
constexpr int kNewVersion = 2;
// Heartbeats per second: enough that several fall into each hop.
constexpr int kHeartbeatMs = 20;
// Events of a guest that runs; a second on a busy host, minutes only if something is broken.
constexpr std::chrono::milliseconds kGuestTimeout{60'000};
// Descriptors that the daemon closes after the record says SUCCEEDED.
constexpr std::chrono::milliseconds kSettleTimeout{5'000};

v1::Migration::FencePolicy PolicyOf(const std::string& fence) {
  if (fence == "before") return v1::Migration::BEFORE_RESUME;
  if (fence == "after") return v1::Migration::AFTER_RESUME;
  return v1::Migration::FENCE_POLICY_UNSPECIFIED;
}

bool HasExited(BorrowedFd pidfd) {
  pollfd poll_fd{.fd = pidfd.raw(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 1;
}

}  // namespace

DemoGuest::DemoGuest(harness::HostUnderTest& host, const DemoOptions& options, const DemoPlan& plan)
    : host_(host), options_(options), plan_(plan) {}

absl::Status DemoGuest::Start() {
  std::vector<std::string> arguments = {"--heartbeat-ms", absl::StrCat(kHeartbeatMs)};
  if (!plan_.memory_kind.empty()) {
    arguments.insert(arguments.end(), {"--memory-kind", plan_.memory_kind});
  }
  absl::StatusOr<harness::StartedVmm> vmm = host_.StartVmm({.vm_id = kVmId,
                                                            .version = kOldVersion,
                                                            .vm_type = plan_.vm_type,
                                                            .memory_mib = options_.memory_mib,
                                                            .vcpus = options_.vcpus,
                                                            .arguments = arguments});
  if (!vmm.ok()) return vmm.status();
  first_vmm_ = *std::move(vmm);
  absl::StatusOr<harness::ConsoleClient> console =
      harness::ConsoleClient::Attach(first_vmm_.console_path, kGuestTimeout);
  if (!console.ok()) return console.status();
  console_ = std::make_unique<ConsoleRecorder>(*std::move(console));
  if (!console_->AwaitBeyond(0, kGuestTimeout)) {
    return absl::DeadlineExceededError("the guest's console is silent");
  }
  absl::StatusOr<VmmFacts> facts = LookAtVmm();
  if (!facts.ok()) return facts.status();
  now_ = *std::move(facts);
  // From here on a later check needs to look at the steps since then only; and this one makes the
  // first VMM map the guest's pages, so that their frames are known.
  GuestReport report;
  if (absl::Status status = CheckGuest(report); !status.ok()) return status;
  if (!report.intact) return absl::InternalError("not intact at its start: " + report.difference);
  absl::StatusOr<harness::Footprint> footprint = harness::FootprintOf(host_);
  if (!footprint.ok()) return footprint.status();
  footprint_ = *std::move(footprint);
  return absl::OkStatus();
}

absl::StatusOr<VmmFacts> DemoGuest::LookAtVmm() {
  absl::StatusOr<v1::VirtualMachine> vm = host_.GetVm(kVmId);
  if (!vm.ok()) return vm.status();
  VmmFacts facts = {.vm = *std::move(vm)};
  facts.executable = harness::ExecutableName(facts.vm.process().pid());
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(facts.vm.process().pid());
  if (!probe.ok()) return probe.status();
  facts.memory = probe->files();
  return facts;
}

absl::Status DemoGuest::CheckGuest(GuestReport& report) {
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(now_.vm.process().pid());
  if (!probe.ok()) return probe.status();
  const absl::StatusOr<harness::ScopedStop> stop =
      harness::ScopedStop::Stop(probe->pid(), kGuestTimeout);
  if (!stop.ok()) return stop.status();
  absl::StatusOr<GuestReport> found = checker_.Check(*probe);
  if (!found.ok()) return found.status();
  report = *std::move(found);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PageFrames>> DemoGuest::FramesOf(const VmmFacts& facts) const {
  std::vector<PageFrames> frames;
  for (const harness::GuestMemoryFile& file : facts.memory) {
    absl::StatusOr<PageFrames> of_file =
        harness::ReadPageFrames(facts.vm.process().pid(), file.hva, file.size_bytes);
    if (!of_file.ok()) return of_file.status();
    frames.push_back(*std::move(of_file));
  }
  return frames;
}

absl::Status DemoGuest::LookAtFrames(const absl::StatusOr<std::vector<PageFrames>>& before,
                                     HopFacts& facts) const {
  if (absl::IsPermissionDenied(before.status())) return absl::OkStatus();
  if (!before.ok()) return before.status();
  const absl::StatusOr<std::vector<PageFrames>> after = FramesOf(facts.after);
  if (!after.ok()) return after.status();
  facts.frames_known = true;
  for (size_t i = 0; i < std::min(before->size(), after->size()); ++i) {
    const harness::FrameComparison file = harness::CompareFrames((*before)[i], (*after)[i]);
    facts.frames.same += file.same;
    facts.frames.different += file.different;
    facts.frames.unknown += file.unknown;
  }
  return absl::OkStatus();
}

absl::StatusOr<HopFacts> DemoGuest::Hop(int number) {
  HopFacts facts = {.number = number, .before = now_};
  facts.expected_executable = harness::ProfileOfVersion(kNewVersion);
  absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(now_.vm.process().pid());
  if (!probe.ok()) return probe.status();
  const absl::StatusOr<UniqueFd> old_process = OpenPidfd(probe->pid());
  if (!old_process.ok()) return old_process.status();
  const absl::StatusOr<std::vector<PageFrames>> frames = FramesOf(now_);
  facts.first_heartbeat = console_->log().last();
  if (absl::Status status = probe->ResetGaps(kGuestTimeout); !status.ok()) return status;

  absl::StatusOr<v1::Migration> migration =
      host_.Migrate(kVmId, facts.expected_executable, PolicyOf(options_.fence));
  if (!migration.ok()) return migration.status();
  facts.migration = *std::move(migration);
  if (facts.migration.state() != v1::Migration::SUCCEEDED) {
    return absl::InternalError(absl::StrCat(v1::Migration::State_Name(facts.migration.state()),
                                            ": ", facts.migration.error().message()));
  }
  facts.old_process_gone = HasExited(old_process->borrow());
  absl::StatusOr<VmmFacts> after = LookAtVmm();
  if (!after.ok()) return after.status();
  facts.after = now_ = *std::move(after);
  if (absl::Status status = LookAround(facts); !status.ok()) return status;
  if (absl::Status status = LookAtFrames(frames, facts); !status.ok()) return status;
  return facts;
}

// What can be seen of the guest once it runs in the new VMM.
absl::Status DemoGuest::LookAround(HopFacts& facts) {
  const absl::StatusOr<GuestProbe> probe = GuestProbe::Attach(now_.vm.process().pid());
  if (!probe.ok()) return probe.status();
  // A heartbeat that the new VMM carried, not one that was in the console's buffers.
  if (!console_->AwaitBeyond(console_->log().last() + 1, kGuestTimeout)) {
    return absl::DeadlineExceededError("the console is silent since the hop");
  }
  const HeartbeatLog log = console_->log();
  facts.last_heartbeat = log.last();
  facts.console_fault = log.fault();
  const absl::StatusOr<double> gap = probe->LongestGapUs();
  if (!gap.ok()) return gap.status();
  facts.guest_gap_us = *gap;
  facts.holders = harness::HoldersOf(Inodes());
  return CheckGuest(facts.guest);
}

std::vector<InodeId> DemoGuest::Inodes() const {
  std::vector<InodeId> inodes;
  for (const harness::GuestMemoryFile& file : now_.memory) inodes.push_back(file.inode);
  return inodes;
}

std::vector<std::string> DemoGuest::FindLeftovers() {
  return harness::FindLeftovers(host_, footprint_, {now_.vm.process().pid()}, Inodes(),
                                kSettleTimeout);
}

std::vector<std::string> DemoGuest::ShutDown() {
  console_.reset();
  std::vector<std::string> found;
  if (absl::Status status = host_.ShutDown(); !status.ok()) {
    found.push_back(std::string(status.message()));
  }
  for (std::string& remains : harness::FindRemains(host_, Inodes())) {
    found.push_back(std::move(remains));
  }
  return found;
}

}  // namespace rehome::bench
