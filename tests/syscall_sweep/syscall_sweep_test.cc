// SPDX-License-Identifier: Apache-2.0
//
// Fails every system call that a migration makes on the daemon's own account, one per migration:
// the Nth of its kind, once and from then on, for every N that a migration without faults has.
//
// Each host lives in a PID namespace of its own: the daemon looks at every process that it sees, so
// that elsewhere the number of its calls would depend on the machine.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/fault_sweep.h"
#include "tests/harness/pid_namespace.h"
#include "tests/syscall_sweep/daemon_calls.h"

#ifndef REHOME_SWEEP_ROW
#error "the strategy to sweep"
#endif

namespace rehome {
namespace {

using std::chrono::milliseconds;
using v1::Migration;

// Hosts beside each other: a case is mostly starting programs, on a machine of two cores.
constexpr int kHosts = 6;
// More than this tells nothing new, and each costs seconds.
constexpr uint64_t kMaxBroken = 12;
// Runs without a fault. The first migration of a daemon makes calls that no other makes, and looks
// that are repeated until something has happened differ from run to run.
constexpr int kDryRuns = 4;
// Of a case that ended before it came to its fault.
constexpr int kTries = 4;
// Only the cases whose description contains the variable's value: to look into one of them.
constexpr char kOnlyVariable[] = "SWEEP_ONLY";

SweptStrategy Row() {
  const std::string row = REHOME_SWEEP_ROW;
  SweptStrategy map = {"sim", "default", {"--memory-kind=memfd"}, Migration::MAP};
  map.held = row == "held";
  if (row == "map" || row == "held") return map;
  return {"sim", "sw-protected", {}, Migration::LINK_MOVE};
}

// Of the dry runs.
struct Seen {
  uint64_t fewest = 0, most = 0;
};

// What became of all cases. Each of its words is one process's at a time.
struct Tally {
  std::atomic<uint64_t> ran, succeeded, kept, unconfirmed, undecided, broken, never_came;

  void Count(const Migration& record) {
    const bool failed = record.state() == Migration::FAILED;
    ran += 1;
    succeeded += record.state() == Migration::SUCCEEDED ? 1 : 0;
    kept += record.guest_owner() == Migration::SOURCE ? 1 : 0;
    unconfirmed += failed && record.guest_owner() == Migration::TARGET ? 1 : 0;
    undecided += record.state() == Migration::INDETERMINATE ? 1 : 0;
  }
  std::string Text() const {
    return absl::StrCat(ran.load(), " cases: ", succeeded.load(), " SUCCEEDED, ", kept.load(),
                        " on the source, ", unconfirmed.load(), " on the target unconfirmed, ",
                        undecided.load(), " INDETERMINATE until the fault was over; ",
                        never_came.load(), " calls more, which not every migration makes, ",
                        "were not made");
  }
};

// Shared with the processes of the hosts.
struct Board {
  Seen calls[kDaemonCalls];
  std::atomic<uint64_t> next;
  Tally tally;
};

Board* NewBoard() {
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : new (memory) Board();
}

SweptRun MustRun(SweptHost& host, const SweptFault& fault) {
  absl::StatusOr<SweptRun> run = host.Run(fault);
  if (run.ok()) return *std::move(run);
  SweptRun failed;
  failed.problems.push_back(absl::StrCat("the host failed: ", run.status().ToString()));
  return failed;
}

// Learns what there is to fail.
int CountCalls(Board& board) {
  SweptHost host(Row());
  for (int i = 0; i < kDryRuns; ++i) {
    const SweptRun dry = MustRun(host, {});
    if (!dry.problems.empty()) {
      std::cout << absl::StrJoin(dry.problems, "\n") << std::endl;
      return 1;
    }
    for (size_t call = 0; call < kDaemonCalls; ++call) {
      Seen& seen = board.calls[call];
      const uint64_t calls = dry.daemon_calls[call];
      seen.fewest = i == 0 ? calls : std::min(seen.fewest, calls);
      seen.most = std::max(seen.most, calls);
    }
  }
  return 0;
}

std::vector<SweptFault> AllFaults(const Board& board) {
  std::vector<SweptFault> faults;
  for (const DaemonCallError& error : DaemonCallErrors()) {
    const auto add = [&](uint64_t nth, bool once) {
      faults.push_back({.what = SweptFault::What::kDaemonCall,
                        .nth = nth,
                        .once = once,
                        .call = error.call,
                        .error = error.error});
    };
    const uint64_t most = board.calls[static_cast<size_t>(error.call)].most;
    switch (error.how_often) {
      case HowOften::kEach:
        for (uint64_t nth = 1; nth <= most; ++nth) {
          add(nth, true);
          add(nth, false);
        }
        break;
      case HowOften::kOnce:
        for (uint64_t nth = 1; nth <= most; ++nth) add(nth, true);
        break;
      case HowOften::kAll:
        if (most > 0) add(1, false);
        break;
      case HowOften::kEverySecond:
        if (most == 0) break;
        add(1, false);
        faults.back().every_second = true;
        break;
    }
  }
  if (const char* only = getenv(kOnlyVariable); only != nullptr) {
    std::erase_if(faults, [only](const SweptFault& fault) {
      return Describe(fault).find(only) == std::string::npos;
    });
  }
  return faults;
}

void RunCase(SweptHost& host, const SweptFault& fault, Board& board) {
  const auto begin = std::chrono::steady_clock::now();
  SweptRun run = MustRun(host, fault);
  for (int i = 1; i < kTries && run.injected == 0 && run.problems.empty(); ++i) {
    run = MustRun(host, fault);
  }
  // A fault that never happened has tested nothing.
  if (run.injected == 0 && run.problems.empty()) {
    if (fault.nth > board.calls[static_cast<size_t>(fault.call)].fewest) {
      board.tally.never_came += 1;
      return;
    }
    run.problems.push_back("the fault never came");
  }
  board.tally.Count(run.record);
  const auto took = (std::chrono::steady_clock::now() - begin) / milliseconds(1);
  std::string line =
      absl::StrCat(Describe(fault), ": ", Migration::State_Name(run.record.state()), ", ",
                   Migration::GuestOwner_Name(run.record.guest_owner()), " (", took, " ms)\n");
  if (!run.problems.empty()) {
    absl::StrAppend(&line, "BROKEN: ", Describe(fault), "\n  ", absl::StrJoin(run.problems, "\n  "),
                    "\n");
    if (board.tally.broken.fetch_add(1) + 1 >= kMaxBroken) board.next.store(UINT64_MAX / 2);
  }
  std::cout << line << std::flush;
}

int Work(const std::vector<SweptFault>& faults, Board& board) {
  SweptHost host(Row());
  while (true) {
    const uint64_t index = board.next.fetch_add(1);
    if (index >= faults.size()) return 0;
    RunCase(host, faults[index], board);
  }
}

// The exit status, or -1.
int AwaitChild(const absl::StatusOr<pid_t>& child) {
  int status = 0;
  if (!child.ok() || waitpid(*child, &status, 0) != *child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

TEST(SyscallSweepTest, WhicheverSystemCallOfTheDaemonFailsTheGuestHasOneOwner) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the library that is preloaded into the daemon would come before the sanitizer's";
#endif
  if (const std::string why = harness::WhyNoPidNamespace(); !why.empty()) GTEST_SKIP() << why;
  Board* const board = NewBoard();
  ASSERT_NE(board, nullptr);
  ASSERT_EQ(AwaitChild(harness::ForkIntoPidNamespace([&] { return CountCalls(*board); })), 0);
  for (size_t i = 0; i < kDaemonCalls; ++i) {
    std::cout << NameOf(static_cast<DaemonCall>(i)) << ": " << board->calls[i].fewest << " to "
              << board->calls[i].most << "\n";
  }
  const std::vector<SweptFault> faults = AllFaults(*board);
  ASSERT_FALSE(faults.empty());
  std::vector<absl::StatusOr<pid_t>> hosts;
  for (int i = 0; i < kHosts; ++i) {
    hosts.push_back(harness::ForkIntoPidNamespace([&] { return Work(faults, *board); }));
  }
  for (const absl::StatusOr<pid_t>& host : hosts) EXPECT_EQ(AwaitChild(host), 0);
  const Tally& tally = board->tally;
  std::cout << REHOME_SWEEP_ROW << ": " << tally.Text() << std::endl;
  EXPECT_EQ(tally.broken.load(), 0U) << "see the lines with BROKEN above";
  EXPECT_EQ(tally.ran + tally.never_came, faults.size());
}

}  // namespace
}  // namespace rehome
