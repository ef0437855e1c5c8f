// SPDX-License-Identifier: Apache-2.0
#include "bench/first_second.h"

#include <poll.h>

#include <chrono>
#include <future>
#include <memory>

#include "bench/rehome_side.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/meeting_place.h"

namespace rehome::bench {
namespace {

using harness::GuestProbe;
using harness::HostUnderTest;
using std::chrono::steady_clock;

constexpr char kVmId[] = "first-second";
constexpr int kVmmVersion = 2;
constexpr std::chrono::milliseconds kPeriod{1000};
// By so much a period may be longer on a busy machine before it is no second any more.
constexpr std::chrono::milliseconds kPeriodSlack{250};
// In which the guest meets its pages, written to, often enough to have them in KVM's page tables:
// on 1 GiB several times each.
constexpr std::chrono::milliseconds kSettle{2000};
constexpr std::chrono::milliseconds kGuestTimeout{120'000};
constexpr std::chrono::milliseconds kMeetingTimeout{60'000};

void WaitUntil(steady_clock::time_point end) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - steady_clock::now()).count();
    if (left <= 0) return;
    poll(nullptr, 0, static_cast<int>(left));
  }
}

absl::Status AddCounts(const GuestProbe& probe, RoundLatency& latency) {
  const absl::StatusOr<std::vector<uint64_t>> counts = probe.RoundCounts();
  if (!counts.ok()) return counts.status();
  const absl::StatusOr<double> longest = probe.LongestGapUs();
  if (!longest.ok()) return longest.status();
  latency.Add(*counts, *longest, probe.boot_info().tsc_khz);
  return absl::OkStatus();
}

absl::Status CountBefore(GuestProbe& probe, RoundLatency& latency) {
  if (auto touched = probe.TimeToTouchAllUs(kGuestTimeout); !touched.ok()) return touched.status();
  WaitUntil(steady_clock::now() + kSettle);
  if (absl::Status status = probe.ResetGaps(kGuestTimeout); !status.ok()) return status;
  WaitUntil(steady_clock::now() + kPeriod);
  return AddCounts(probe, latency);
}

// The source waits for us where the guest stands still and its state is saved: there the guest is
// asked to begin a new period, which it does in the target, after its first round there.
absl::Status MoveAndCount(HostUnderTest& host, harness::MeetingPlace& place, GuestProbe& source,
                          RoundLatency& latency) {
  std::future<absl::StatusOr<v1::Migration>> moving = std::async(std::launch::async, [&host] {
    return host.Migrate(kVmId, harness::ProfileOfVersion(kVmmVersion), v1::Migration::AFTER_RESUME);
  });
  const absl::Status met = place.Await(kMeetingTimeout).status();
  const absl::Status asked = met.ok() ? source.RequestReset() : met;
  const steady_clock::time_point begin = steady_clock::now();
  place.Release();
  const absl::StatusOr<v1::Migration> migration = moving.get();
  if (!asked.ok()) return asked;
  if (!migration.ok()) return migration.status();
  if (absl::Status status = SampleOf(*migration).status(); !status.ok()) return status;
  const absl::StatusOr<GuestProbe> target = GuestProbe::Attach(migration->target().pid());
  if (!target.ok()) return target.status();
  WaitUntil(begin + kPeriod);
  if (absl::Status status = AddCounts(*target, latency); !status.ok()) return status;
  if (steady_clock::now() > begin + kPeriod + kPeriodSlack) {
    return absl::DeadlineExceededError("the migration's end was later than a second after it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddFirstSecond(const GuestShape& shape,
                            const std::vector<std::string>& target_arguments, FirstSecond& result) {
  absl::StatusOr<harness::MeetingPlace> place = harness::MeetingPlace::Open();
  if (!place.ok()) return place.status();
  absl::StatusOr<std::unique_ptr<HostUnderTest>> host =
      HostUnderTest::Start({.kernel = "kvm", .target_arguments = target_arguments});
  if (!host.ok()) return host.status();
  const absl::StatusOr<harness::StartedVmm> vmm = (*host)->StartVmm(
      {.vm_id = kVmId,
       .version = kVmmVersion,
       .memory_mib = shape.memory_mib,
       .vcpus = shape.vcpus,
       .arguments = {"--heartbeat-ms", "0", "--step-ns", "0", "--working-set-pages", "0",
                     "--memory-kind", shape.memfd ? "memfd" : "auto", "--meet-at", "saved",
                     "--meet-socket", place->path()}});
  if (!vmm.ok()) return vmm.status();
  absl::StatusOr<GuestProbe> source = GuestProbe::Attach(vmm->process.pid());
  if (!source.ok()) return source.status();
  absl::Status status = source->TouchAllPages();
  if (status.ok()) status = CountBefore(*source, result.before);
  if (status.ok()) status = MoveAndCount(**host, *place, *source, result.after);
  return status.ok() ? (*host)->StopVm(kVmId) : status;
}

}  // namespace rehome::bench
