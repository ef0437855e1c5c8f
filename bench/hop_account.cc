// SPDX-License-Identifier: Apache-2.0
#include "bench/hop_account.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/blackout_phases.h"
#include "bench/terminal.h"

namespace rehome::bench {
namespace {

double Micros(int64_t ns) { return static_cast<double>(ns) / 1000; }

std::string Describe(const VmmFacts& facts) {
  return absl::StrFormat("pid %d, %s, state format %d", facts.vm.process().pid(),
                         facts.vm.process().vmm(), facts.vm.state_format());
}

std::string StrategyText(const v1::Migration& migration) {
  switch (migration.strategy()) {
    case v1::Migration::LINK_MOVE:
      return "LINK_MOVE: memory linked, encryption context moved";
    case v1::Migration::MAP_MOVE:
      return "MAP_MOVE: the same memory mapped, encryption context moved";
    case v1::Migration::LINK:
      return "LINK: memory linked";
    case v1::Migration::MAP:
      return "MAP: the same memory mapped";
    default:
      return "no strategy recorded";
  }
}

uint64_t TotalBytes(const std::vector<harness::GuestMemoryFile>& files) {
  uint64_t bytes = 0;
  for (const harness::GuestMemoryFile& file : files) bytes += file.size_bytes;
  return bytes;
}

bool SameMemory(const HopFacts& facts) {
  const auto same = [](const harness::GuestMemoryFile& a, const harness::GuestMemoryFile& b) {
    return a.inode == b.inode && a.size_bytes == b.size_bytes;
  };
  return !facts.before.memory.empty() &&
         std::equal(facts.before.memory.begin(), facts.before.memory.end(),
                    facts.after.memory.begin(), facts.after.memory.end(), same);
}

Claim Moved(const HopFacts& facts) {
  const v1::Migration& m = facts.migration;
  const int old_pid = facts.before.vm.process().pid();
  const int new_pid = facts.after.vm.process().pid();
  return {.holds = m.state() == v1::Migration::SUCCEEDED &&
                   m.guest_owner() == v1::Migration::TARGET && old_pid != new_pid &&
                   m.source().pid() == old_pid && m.target().pid() == new_pid &&
                   m.strategy() != v1::Migration::STRATEGY_UNSPECIFIED &&
                   facts.after.executable == facts.expected_executable,
          .topic = "moved",
          .text = absl::StrCat("from ", Describe(facts.before), "\nto ", Describe(facts.after),
                               "\nby ", StrategyText(m))};
}

Claim Verified(const HopFacts& facts) {
  int not_applicable = 0;
  std::vector<std::string> passed, others;
  for (const v1::PreflightCheck& check : facts.migration.preflight_checks()) {
    if (check.result() == v1::PreflightCheck::PASSED) {
      passed.push_back(check.name());
    } else if (check.result() == v1::PreflightCheck::NOT_APPLICABLE) {
      ++not_applicable;
    } else {
      others.push_back(check.name());
    }
  }
  const std::string& digest = facts.migration.layout_digest();
  Claim claim = {.holds = !passed.empty() && others.empty() && !digest.empty(),
                 .topic = "verified"};
  claim.text = absl::StrCat("preflight: ", passed.size(), " passed, ", not_applicable,
                            " not applicable, ", others.size(), " failed");
  if (!others.empty()) absl::StrAppend(&claim.text, ": ", absl::StrJoin(others, " "));
  // Once is enough to read.
  if (facts.number == 1) absl::StrAppend(&claim.text, "\n", absl::StrJoin(passed, " "));
  absl::StrAppend(&claim.text, "\n",
                  digest.empty() ? "the memory layouts were NOT compared"
                                 : absl::StrCat("both memory layouts agree, digest ", digest));
  return claim;
}

Claim Paused(const HopFacts& facts) {
  double sum = 0;
  for (const auto& [name, micros] : PhasesOf(facts.migration.blackout())) sum += micros;
  const double total = Micros(facts.migration.blackout().total_ns());
  // The phases are whole nanoseconds.
  const bool adds_up = std::abs(sum - total) < 0.0005;
  return {.holds = total > 0 && adds_up,
          .topic = "paused",
          .text = absl::StrCat("for ", FormatMicros(total), " by the clocks of both VMMs",
                               adds_up ? "" : "; the phases do not add up")};
}

Claim GuestSaw(const HopFacts& facts) {
  return {.holds = facts.guest_gap_us > 0,
          .topic = "guest saw",
          .text = absl::StrCat("no longer gap than ", FormatMicros(facts.guest_gap_us),
                               " between two of its steps, by its own TSC")};
}

// What kept the source from running the guest while the target began.
std::string FencePolicyText(const v1::Migration& migration) {
  switch (migration.fence_policy()) {
    case v1::Migration::KERNEL:
      return "its VM marked dead by the move of its context";
    case v1::Migration::BEFORE_RESUME:
      return "proven stopped before the guest went on";
    case v1::Migration::AFTER_RESUME:
      return "proven stopped after the guest went on";
    default:
      return "no policy recorded";
  }
}

bool PolicyKept(const v1::Migration& migration) {
  const v1::FenceProof& proof = migration.fence_proof();
  switch (migration.fence_policy()) {
    case v1::Migration::KERNEL:
      return proof.kernel_vm_dead();
    case v1::Migration::BEFORE_RESUME:
      return proof.stopped_before_resume();
    case v1::Migration::AFTER_RESUME:
      return proof.process_exited();
    default:
      return false;
  }
}

Claim OldVmm(const HopFacts& facts) {
  const v1::FenceProof& proof = facts.migration.fence_proof();
  const int old_pid = facts.before.vm.process().pid();
  const int new_pid = facts.after.vm.process().pid();
  const bool only_new =
      !facts.holders.empty() &&
      std::all_of(facts.holders.begin(), facts.holders.end(),
                  [new_pid](const harness::Holder& holder) { return holder.pid == new_pid; });
  Claim claim = {.holds = proof.complete() && proof.process_exited() &&
                          proof.foreign_holders_size() == 0 && proof.source().pid() == old_pid &&
                          PolicyKept(facts.migration) &&
                          proof.inodes_checked() == static_cast<int>(facts.before.memory.size()) &&
                          facts.old_process_gone && only_new,
                 .topic = "old VMM"};
  claim.text = absl::StrCat(
      "pid ", old_pid, ": ", FencePolicyText(facts.migration), "; ",
      proof.kill_sent_monotonic_ns() != 0 ? "killed, " : "",
      proof.process_exited() && facts.old_process_gone ? "gone" : "NOT proven to be gone", "; ",
      only_new ? absl::StrCat("only pid ", new_pid, " holds the memory now")
               : "NOT only the new VMM holds the memory");
  return claim;
}

std::string FramesText(const HopFacts& facts) {
  if (!facts.frames_known) return "physical frames not looked at (the kernel hides them)";
  const std::string same = FormatCount(facts.frames.same);
  if (facts.frames.different == 0) {
    return absl::StrCat(same, " pages seen on both sides, each in the physical frame of before");
  }
  return absl::StrCat(same, " pages in the physical frame of before, ",
                      FormatCount(facts.frames.different), " NOT");
}

Claim Memory(const HopFacts& facts) {
  std::vector<std::string> inodes;
  for (const harness::GuestMemoryFile& file : facts.after.memory) {
    inodes.push_back(absl::StrCat(file.inode.inode));
  }
  const uint64_t copied = CopiedBytes(facts);
  const bool same = SameMemory(facts);
  Claim claim = {.holds = same && copied == 0 && (!facts.frames_known || facts.frames.same > 0),
                 .topic = "memory"};
  claim.text =
      absl::StrCat(FormatBytes(static_cast<double>(TotalBytes(facts.after.memory))), ", inode ",
                   absl::StrJoin(inodes, " "), same ? " as before; " : ", NOT the one of before; ",
                   FramesText(facts), "; ", FormatBytes(static_cast<double>(copied)), " copied");
  return claim;
}

Claim Guest(const HopFacts& facts) {
  const GuestReport& guest = facts.guest;
  Claim claim = {.holds = guest.intact && guest.errors == 0 && guest.steps > 0, .topic = "guest"};
  claim.text =
      absl::StrCat(claim.holds ? "intact: " : "NOT INTACT: ", FormatCount(guest.steps),
                   " steps of its hash chains recomputed, ", FormatCount(guest.pages_compared),
                   " pages compared; it counted ", FormatCount(guest.errors), " errors itself");
  if (!guest.difference.empty()) absl::StrAppend(&claim.text, "; ", guest.difference);
  return claim;
}

Claim ConsoleLines(const HopFacts& facts) {
  const bool came = facts.last_heartbeat > facts.first_heartbeat && facts.first_heartbeat > 0;
  Claim claim = {.holds = came && facts.console_fault.empty(), .topic = "console"};
  claim.text = absl::StrCat("heartbeats ", facts.first_heartbeat, " to ", facts.last_heartbeat,
                            " came over the connection of before, ",
                            facts.console_fault.empty() ? "none missing" : facts.console_fault);
  return claim;
}

}  // namespace

std::vector<Claim> ClaimsOf(const HopFacts& facts) {
  return {Moved(facts),  Verified(facts), Paused(facts), GuestSaw(facts),
          OldVmm(facts), Memory(facts),   Guest(facts),  ConsoleLines(facts)};
}

bool AllHold(const std::vector<Claim>& claims) {
  return !claims.empty() &&
         std::all_of(claims.begin(), claims.end(), [](const Claim& claim) { return claim.holds; });
}

uint64_t CopiedBytes(const HopFacts& facts) {
  uint64_t bytes = facts.frames.different * harness::kPageSize;
  for (size_t i = 0; i < facts.after.memory.size(); ++i) {
    const bool moved = i < facts.before.memory.size() &&
                       facts.before.memory[i].inode == facts.after.memory[i].inode;
    if (!moved) bytes += facts.after.memory[i].size_bytes;
  }
  return bytes;
}

}  // namespace rehome::bench
