// SPDX-License-Identifier: Apache-2.0
//
// The guest of the demo: started by hand, watched over its console, moved again and again. Gathers
// the facts of each hop (hop_account.h).
#ifndef REHOME_BENCH_DEMO_GUEST_H_
#define REHOME_BENCH_DEMO_GUEST_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/demo_options.h"
#include "bench/heartbeat_log.h"
#include "bench/hop_account.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/leftovers.h"
#include "vmm/reference/guest_check.h"

namespace rehome::bench {

class DemoGuest {
 public:
  // `host` must outlive the guest.
  DemoGuest(harness::HostUnderTest& host, const DemoOptions& options, const DemoPlan& plan);

  // Starts the VM on version 1 of the VMM, attaches to its console and waits for the first
  // heartbeat.
  absl::Status Start();
  const VmmFacts& vmm() const { return now_; }

  // Moves it to version 2 of the VMM. An error means that the hop or the looking failed; that what
  // was found is not as it should be is for ClaimsOf() to say. The guest stands still for some
  // milliseconds afterwards, while its memory is compared.
  absl::StatusOr<HopFacts> Hop(int number);

  // What the hops have left behind; the guest still runs.
  std::vector<std::string> FindLeftovers();
  // What is there after everything was shut down.
  std::vector<std::string> ShutDown();

 private:
  absl::StatusOr<VmmFacts> LookAtVmm();
  absl::Status CheckGuest(GuestReport& report);
  absl::StatusOr<std::vector<harness::PageFrames>> FramesOf(const VmmFacts& facts) const;
  absl::Status LookAtFrames(const absl::StatusOr<std::vector<harness::PageFrames>>& before,
                            HopFacts& facts) const;
  absl::Status LookAround(HopFacts& facts);
  std::vector<InodeId> Inodes() const;

  harness::HostUnderTest& host_;
  const DemoOptions& options_;
  const DemoPlan& plan_;
  harness::StartedVmm first_vmm_;
  std::unique_ptr<ConsoleRecorder> console_;
  GuestChecker checker_;
  harness::Footprint footprint_;
  VmmFacts now_;
};

}  // namespace rehome::bench

#endif  // REHOME_BENCH_DEMO_GUEST_H_
