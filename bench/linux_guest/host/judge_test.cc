// SPDX-License-Identifier: Apache-2.0
//
// Each thing that can go wrong breaks the promise that it is about.
#include "bench/linux_guest/host/judge.h"

#include <functional>
#include <string>
#include <vector>

#include "bench/linux_guest/host/good_evidence.h"
#include "gtest/gtest.h"

namespace rehome::linux_guest {
namespace {

// Names of the promises that are broken, with blanks between.
std::string Broken(const Evidence& evidence) {
  std::string names;
  for (const Verdict& verdict : Judge(evidence)) {
    if (verdict.kept) continue;
    if (!names.empty()) names += " ";
    names += verdict.name;
  }
  return names;
}

std::string DetailOf(const Evidence& evidence, const std::string& name) {
  for (const Verdict& verdict : Judge(evidence)) {
    if (verdict.name == name) return verdict.detail;
  }
  return "";
}

TEST(JudgeTest, AllIsKeptWhereNothingWasLost) {
  EXPECT_EQ(Broken(GoodEvidence()), "");
  EXPECT_TRUE(AllKept(Judge(GoodEvidence())));
  EXPECT_FALSE(AllKept({}));
}

TEST(JudgeTest, NothingIsKeptWithoutEvidence) {
  const std::vector<Verdict> verdicts = Judge(Evidence{.hops_wanted = 1});
  for (const Verdict& verdict : verdicts) {
    EXPECT_FALSE(verdict.kept) << verdict.name << ": " << verdict.detail;
    EXPECT_NE(verdict.detail, "") << verdict.name;
  }
}

struct Loss {
  const char* what;
  const char* broken;
  std::function<void(Evidence&)> inflict;
};

// A counter of the guest's last account.
std::function<void(Evidence&)> Guest(const std::string& key, uint64_t value) {
  return [key, value](Evidence& evidence) { evidence.last.Set(key, value); };
}

const Loss kLosses[] = {
    {"a move failed", "migrations", [](Evidence& e) { e.hops_done = 1; }},
    {"the guest stood still after a move", "migrations",
     [](Evidence& e) { e.hop_fault = "the disk stands still"; }},
    {"it booted again", "one_boot", [](Evidence& e) { e.last.Set("run", 1); }},
    {"its program failed", "one_boot", Guest("faults", 1)},
    {"a byte was lost", "stream", [](Evidence& e) { e.echo.bytes_compared -= 1; }},
    {"a byte was changed", "stream", [](Evidence& e) { e.echo.fault = "byte 5 of the stream"; }},
    {"the stream was not ended", "stream", [](Evidence& e) { e.echo.ended = false; }},
    {"the guest saw a frame twice", "stream", Guest("echo_faults", 1)},
    {"the guest counted another frame", "stream", Guest("echo_frames", 8)},
    {"the guest counted fewer bytes", "stream", Guest("echo_bytes", 6999)},
    {"the stream was connected again", "stream", Guest("echo_streams", 2)},
    {"the stream was reset", "connections", [](Evidence& e) { e.echo.reset = true; }},
    {"the control connection broke", "connections",
     [](Evidence& e) { e.control_fault = "connection reset"; }},
    {"the guest sent a reset", "connections", Guest("tcp_resets_sent", 1)},
    {"the guest saw a reset", "connections", Guest("tcp_resets_seen", 1)},
    {"a record is missing", "disk",
     [](Evidence& e) {
       e.disk.checked -= 1;
       e.disk.faults = 1;
       e.disk.first_fault = "slot 3";
     }},
    {"the file was not read to its end", "disk", [](Evidence& e) { e.disk.checked = 10; }},
    {"the guest read something else", "disk", Guest("disk_faults", 1)},
    {"a write was completed twice", "disk", Guest("disk_kernel_writes", 181)},
    {"a write was lost in the kernel's count", "disk", Guest("disk_kernel_writes", 179)},
    {"a read was completed twice", "disk", Guest("disk_kernel_reads", 181)},
    {"a flush was not made", "disk", Guest("disk_kernel_flushes", 89)},
    {"the disk has another size", "disk", Guest("disk_slots", 63)},
    {"the monotonic clock went back", "monotonic", Guest("clock_mono_backwards", 1)},
    {"the boot time went back", "monotonic", Guest("clock_boot_backwards", 1)},
    {"the wall clock went back", "monotonic", Guest("clock_real_backwards", 1)},
    {"nobody looked at the clocks", "monotonic", Guest("clock_looks", 100)},
    {"the wall clock lags", "wall_clock", [](Evidence& e) { e.times.back().offset -= 1'200'000; }},
    {"the wall clock is ahead once", "wall_clock",
     [](Evidence& e) { e.times[2].offset += 1'200'000; }},
    {"each move loses a third of what all may", "wall_clock",
     [](Evidence& e) {
       e.times[2].offset -= 300'000;
       e.times[3].offset -= 600'000;
     }},
    {"one move loses a little", "wall_clock",
     [](Evidence& e) {
       e.times[2].offset -= 300'000;
       e.times[3].offset -= 300'000;
     }},
    {"the wall clock was not read after a move", "wall_clock",
     [](Evidence& e) { e.times.pop_back(); }},
    {"a register was lost", "registers",
     [](Evidence& e) {
       ChainState chain = *e.last.Chain(1);
       chain.lanes[3] ^= 1;
       e.last.SetChain(1, chain);
     }},
    {"a vCPU stood still", "registers", [](Evidence& e) { e.last.SetChain(0, *e.first.Chain(0)); }},
    {"a vCPU is gone", "registers", Guest("vcpus", 1)},
    {"a soft lockup", "kernel_log", Guest("kmsg_alarms", 1)},
    {"lines of the log were overwritten", "kernel_log", Guest("kmsg_lost", 1)},
    {"the watcher is blind", "kernel_log", Guest("kmsg_planted", 0)},
    {"a console line is missing", "console", [](Evidence& e) { e.console.missing = 1; }},
    {"a console line came twice", "console", [](Evidence& e) { e.console.again = 1; }},
    {"a console line is damaged", "console", [](Evidence& e) { e.console.damaged = 1; }},
    {"the last console line is missing", "console", Guest("console_ticks", 10)},
    {"the first console line is missing", "console", [](Evidence& e) { e.console.first_tick = 2; }},
    {"the console hung up", "console", [](Evidence& e) { e.console.hung_up = "hung up"; }},
    {"what was typed got no answer", "console", [](Evidence& e) { e.console.pongs = 3; }},
    {"the guest answered once more", "accounts", Guest("time_requests", 49)},
    {"the guest was typed to once more", "accounts", Guest("console_pings", 5)},
};

TEST(JudgeTest, EachLossBreaksItsPromiseAndNoOther) {
  for (const Loss& loss : kLosses) {
    Evidence evidence = GoodEvidence();
    loss.inflict(evidence);
    EXPECT_EQ(Broken(evidence), loss.broken) << loss.what;
    EXPECT_NE(DetailOf(evidence, loss.broken), DetailOf(GoodEvidence(), loss.broken)) << loss.what;
  }
}

TEST(JudgeTest, ACounterThatTheGuestDoesNotTellIsNotZero) {
  Evidence evidence = GoodEvidence();
  std::string line;
  for (const std::string key : {"kmsg_alarms", "clock_mono_backwards", "disk_faults"}) {
    const std::string whole = GoodEvidence().last.ToLine();
    const size_t start = whole.find(key + "=");
    const size_t end = whole.find(' ', start);
    evidence.last = *GuestAccount::Parse(whole.substr(0, start) + whole.substr(end + 1));
    EXPECT_NE(Broken(evidence), "") << key;
  }
}

}  // namespace
}  // namespace rehome::linux_guest
