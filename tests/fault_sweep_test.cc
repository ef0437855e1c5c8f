// SPDX-License-Identifier: Apache-2.0
//
// Fails every kernel call and every message of a migration, one per migration: the Nth of its kind,
// once and from then on, for every N that a migration without faults has. Whichever it is,
// afterwards one process runs the guest, whole, and the record says which, or an honest loss.
//
// One kind has no Nth: KVM_RUN, which a VMM calls as long as its guest lives. Of the source any one
// before the pause is like any other; of the target the first is the last one of the migration.
#include "tests/fault_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvmglue/sim/fault_injector.h"

#ifndef REHOME_SWEEP_ROW
#error "the strategy to sweep"
#endif

namespace rehome {
namespace {

using v1::Migration;

// Hosts beside each other: a case is mostly waiting.
constexpr int kHosts = 6;
// More than this tells nothing new, and each costs seconds.
constexpr size_t kMaxBroken = 12;
// Two runs without a fault differ by no more messages than this: an event and a request may cross.
constexpr uint64_t kMinMessages = 3;

SweptStrategy Row() {
  const std::string row = REHOME_SWEEP_ROW;
  const std::vector<std::string> memfd = {"--memory-kind=memfd"};
  if (row == "kvm_map") return {"kvm", "default", memfd, Migration::MAP};
  if (row == "map") return {"sim", "default", memfd, Migration::MAP};
  if (row == "link") return {"sim", "default", {}, Migration::LINK};
  if (row == "map_move") return {"sim", "sev", {}, Migration::MAP_MOVE};
  return {"sim", "sw-protected", {}, Migration::LINK_MOVE};
}

// What a kernel says when it cannot do a call of this kind. MOVE (ENABLE_CAP) is told in two ways:
// EINVAL comes before the kernel has done anything, EIO may come after.
std::vector<int> ErrnosOf(const FaultOperation& operation) {
  const std::string name = FaultOperationName(operation);
  if (name == "OPEN") return {EMFILE};
  if (name == "MAP" || name.starts_with("KVM_CREATE_")) return {ENOMEM};
  if (name == "KVM_ENABLE_CAP") return {EINVAL, EIO};
  if (name == "KVM_RUN") return {EFAULT};
  return {EINVAL};
}

SweptRun MustRun(SweptHost& host, const SweptFault& fault) {
  absl::StatusOr<SweptRun> run = host.Run(fault);
  if (run.ok()) return *std::move(run);
  SweptRun failed;
  failed.problems.push_back(absl::StrCat("the host failed: ", run.status().ToString()));
  return failed;
}

std::vector<SweptFault> KernelFaults(const SweptRun& dry) {
  std::vector<SweptFault> faults;
  for (const Side side : {Side::kSource, Side::kTarget}) {
    for (const auto& [operation, calls] : dry.counts[static_cast<int>(side)].calls) {
      const bool run = FaultOperationName(operation) == "KVM_RUN";
      for (uint64_t nth = 1; nth <= (run ? 1 : calls); ++nth) {
        for (const int error : ErrnosOf(operation)) {
          for (const bool once : {true, false}) {
            faults.push_back({.what = SweptFault::What::kKernelCall,
                              .side = side,
                              .nth = nth,
                              .once = once,
                              .operation = operation,
                              .error = error});
          }
        }
      }
    }
  }
  return faults;
}

std::vector<SweptFault> MessageFaults(const SweptRun& dry) {
  std::vector<SweptFault> faults;
  for (const Side side : {Side::kSource, Side::kTarget}) {
    for (const Direction direction : {Direction::kToDaemon, Direction::kToAgent}) {
      const SideCounts& counts = dry.counts[static_cast<int>(side)];
      for (uint64_t nth = 1; nth <= counts.messages[static_cast<int>(direction)]; ++nth) {
        for (const MessageFault message :
             {MessageFault::kCut, MessageFault::kDrop, MessageFault::kGarble}) {
          for (const bool once : {true, false}) {
            faults.push_back({.what = SweptFault::What::kMessage,
                              .side = side,
                              .nth = nth,
                              .once = once,
                              .message = message,
                              .direction = direction});
          }
        }
      }
    }
  }
  return faults;
}

// Runs all of them, and says how many ran, how many never came to their fault, and what broke.
void Sweep(const std::vector<SweptFault>& faults) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // guards what follows
  size_t ran = 0, unreached = 0, succeeded = 0, lost = 0, undecided = 0;
  std::vector<std::string> broken;
  const auto work = [&] {
    SweptHost host(Row());
    while (true) {
      const size_t index = next.fetch_add(1);
      if (index >= faults.size()) return;
      const SweptRun run = MustRun(host, faults[index]);
      const std::lock_guard<std::mutex> guard(mutex);
      ++ran;
      unreached += run.injected == 0 ? 1 : 0;
      succeeded += run.record.state() == Migration::SUCCEEDED ? 1 : 0;
      lost += run.record.guest_owner() == Migration::NOBODY ? 1 : 0;
      undecided += run.record.state() == Migration::INDETERMINATE ? 1 : 0;
      if (run.problems.empty()) continue;
      broken.push_back(
          absl::StrCat(Describe(faults[index]), "\n  ", absl::StrJoin(run.problems, "\n  ")));
      if (broken.size() >= kMaxBroken) next.store(faults.size());
    }
  };
  std::vector<std::thread> hosts;
  for (int i = 0; i < kHosts; ++i) hosts.emplace_back(work);
  for (std::thread& host : hosts) host.join();
  std::cout << REHOME_SWEEP_ROW << ": " << ran << " of " << faults.size() << " cases ran; "
            << succeeded << " succeeded all the same, " << lost << " lost honestly, " << undecided
            << " INDETERMINATE, " << unreached << " never came to their fault, " << broken.size()
            << " broken\n";
  EXPECT_TRUE(broken.empty()) << absl::StrJoin(broken, "\n\n");
  // A fault that never happened has tested nothing. Messages that cross may come one fewer.
  EXPECT_LE(unreached * 20, faults.size());
}

TEST(FaultSweepTest, EveryKernelCallMayFail) {
  SweptHost host(Row());
  const SweptRun dry = MustRun(host, {});
  ASSERT_TRUE(dry.problems.empty()) << absl::StrJoin(dry.problems, "\n");
  for (const SideCounts& side : dry.counts) ASSERT_FALSE(side.calls.empty());
  Sweep(KernelFaults(dry));
}

TEST(FaultSweepTest, EveryMessageMayFail) {
  SweptHost host(Row());
  const SweptRun dry = MustRun(host, {});
  ASSERT_TRUE(dry.problems.empty()) << absl::StrJoin(dry.problems, "\n");
  for (const SideCounts& side : dry.counts) {
    for (const uint64_t messages : side.messages) ASSERT_GE(messages, kMinMessages);
  }
  Sweep(MessageFaults(dry));
}

}  // namespace
}  // namespace rehome
