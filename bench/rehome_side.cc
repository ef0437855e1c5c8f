// SPDX-License-Identifier: Apache-2.0
#include "bench/rehome_side.h"

#include <poll.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/blackout_phases.h"
#include "tests/harness/guest_probe.h"
#include "vmm/reference/guest_check.h"

namespace rehome::bench {
namespace {

using harness::GuestProbe;
using harness::HostUnderTest;

constexpr char kVmId[] = "bench";
// The newer one, which reads what it writes.
constexpr int kVmmVersion = 2;
constexpr std::chrono::milliseconds kGuestTimeout{30'000};

void Dwell() { poll(nullptr, 0, kDwellMs); }

absl::StatusOr<GuestProbe> AttachToGuest(HostUnderTest& host) {
  const absl::StatusOr<v1::VirtualMachine> vm = host.GetVm(kVmId);
  if (!vm.ok()) return vm.status();
  return GuestProbe::Attach(vm->process().pid());
}

absl::StatusOr<HopSample> Hop(HostUnderTest& host, const std::string& profile,
                              v1::Migration::FencePolicy fence_policy) {
  absl::StatusOr<GuestProbe> before = AttachToGuest(host);
  if (!before.ok()) return before.status();
  Dwell();
  if (absl::Status status = before->ResetGaps(kGuestTimeout); !status.ok()) return status;
  const absl::StatusOr<v1::Migration> migration = host.Migrate(kVmId, profile, fence_policy);
  if (!migration.ok()) return migration.status();
  absl::StatusOr<HopSample> sample = SampleOf(*migration);
  if (!sample.ok()) return sample;
  Dwell();
  const absl::StatusOr<GuestProbe> after = AttachToGuest(host);
  if (!after.ok()) return after.status();
  const absl::StatusOr<double> gap = after->LongestGapUs();
  if (!gap.ok()) return gap.status();
  sample->guest_gap_us = *gap;
  return sample;
}

absl::Status CheckGuest(HostUnderTest& host) {
  const absl::StatusOr<GuestProbe> probe = AttachToGuest(host);
  if (!probe.ok()) return probe.status();
  for (uint32_t i = 0; i < probe->boot_info().vcpu_count; ++i) {
    const absl::StatusOr<rehome_guest_mailbox> mailbox = ReadMailbox(*probe, i);
    if (!mailbox.ok()) return mailbox.status();
    for (const uint64_t errors : mailbox->errors) {
      if (errors != 0) return absl::DataLossError(absl::StrCat("vCPU ", i, " counted errors"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HopSample> SampleOf(const v1::Migration& migration) {
  if (migration.state() != v1::Migration::SUCCEEDED) {
    return absl::InternalError(absl::StrCat(migration.name(), ": ",
                                            v1::Migration::State_Name(migration.state()), ", ",
                                            migration.error().message()));
  }
  const v1::Blackout& blackout = migration.blackout();
  if (blackout.total_ns() <= 0) {
    return absl::InternalError(absl::StrCat(migration.name(), " has no blackout"));
  }
  return HopSample{.blackout_us = static_cast<double>(blackout.total_ns()) / 1000,
                   .phases_us = PhasesOf(blackout)};
}

absl::StatusOr<HopSamples> RunRehome(HostUnderTest& host, const GuestShape& shape, int hops,
                                     v1::Migration::FencePolicy fence_policy,
                                     const Movers& movers) {
  harness::VmmOptions options = {
      .vm_id = kVmId,
      .version = kVmmVersion,
      .memory_mib = shape.memory_mib,
      .vcpus = shape.vcpus,
      .arguments = {"--heartbeat-ms", "0", "--memory-kind", shape.memfd ? "memfd" : "auto"}};
  options.arguments.insert(options.arguments.end(), movers.arguments.begin(),
                           movers.arguments.end());
  const std::string profile =
      movers.profile.empty() ? harness::ProfileOfVersion(kVmmVersion) : movers.profile;
  const absl::StatusOr<harness::StartedVmm> vmm = host.StartVmm(options);
  if (!vmm.ok()) return vmm.status();
  const absl::StatusOr<GuestProbe> probe = AttachToGuest(host);
  if (!probe.ok()) return probe.status();
  if (absl::Status status = probe->TouchAllPages(); !status.ok()) return status;
  HopSamples samples;
  for (int i = 0; i < hops; ++i) {
    absl::StatusOr<HopSample> sample = Hop(host, profile, fence_policy);
    if (!sample.ok()) return sample.status();
    samples.push_back(*std::move(sample));
  }
  if (absl::Status status = CheckGuest(host); !status.ok()) return status;
  if (absl::Status status = host.StopVm(kVmId); !status.ok()) return status;
  return samples;
}

}  // namespace rehome::bench
