// SPDX-License-Identifier: Apache-2.0
//
// A source and a target VMM without a kernel behind them, each in a process of its own, so that
// tests can kill them. They share a page with the test, in which they say what they did and find
// what they are to do wrong.
#ifndef REHOME_VMM_AGENT_FAKE_VMM_H_
#define REHOME_VMM_AGENT_FAKE_VMM_H_

#include <atomic>
#include <cstdint>

#include "vmm/agent/protocol.h"

namespace rehome {

inline constexpr uint64_t kFakeLayoutDigest = 0x1234;
inline constexpr uint64_t kFakeStateSize = 10000;
inline constexpr int kNotReturned = 1;  // of the results in VmmPage
inline constexpr char kFakeVmId[] = "vm-1";
// What the state consists of.
constexpr uint8_t FakeStateByte(uint64_t i) { return static_cast<uint8_t>(i * 31 + 7); }

// Places where a VMM can be told to hang; it says when it is there.
enum class Step : uint32_t {
  kNone = 0,
  // source
  kDescribe = 1,
  kArmSource = 2,
  kPause = 3,       // in pause_and_save, guest stopped
  kHandedOver = 4,  // in handed_over()
  kQuiesce = 5,     // in quiesce(), guest running
  // target
  kPrepare = 8,
  kArmTarget = 9,
  kStateSeen = 10,  // wait() returned 0
  kClaimed = 11,
  kMoved = 12,  // MOVE done (in strategies without one: restored), not committed
  kCommitted = 13,
  kRunning = 14,  // run() returned 0, the guest has not run
  kRan = 15,      // the guest runs, first_run() has not been called
};

// Shared memory; everything is written by whoever it is about.
struct VmmPage {
  std::atomic<uint32_t> changes;  // futex: every writer adds one and wakes
  std::atomic<uint32_t> reached;  // bit per Step
  std::atomic<uint32_t> hang_at;  // Step; whoever reaches it stays there until it is another one

  std::atomic<uint32_t> source_runs, target_runs;  // the guest runs there now
  std::atomic<uint32_t> ran_twice;                 // both at once, ever
  std::atomic<uint32_t> vm_moved;                  // the "kernel": the source's VM is dead

  std::atomic<uint32_t> pauses, resumes, source_cancelled, handed_over, released;
  std::atomic<uint32_t> target_cancelled, state_intact, fds_intact;
  // What rehome_target_*() returned. A VMM that is told to exit may not get to say it.
  std::atomic<int32_t> wait_result, claim_result, commit_result, run_result;

  std::atomic<uint64_t> quiesced_ns;  // when quiesce() returned

  // what to do wrong
  std::atomic<uint32_t> quiesce_fails, pause_fails, layout_changes, state_too_large;
  std::atomic<uint32_t> target_refuses, move_kills_and_fails, prepare_fails, first_run_fails;
  std::atomic<uint32_t> target_stays;      // does not exit when cancelled() tells it to
  std::atomic<uint32_t> target_is_nobody;  // root's source cannot be killed by it

  char agent_socket[128];  // written before the processes start; "": they do not connect again
};

// A page of zeroes that forked processes share.
VmmPage* NewVmmPage();
void FreeVmmPage(VmmPage* page);
// Tells everybody who waits for a change of the page.
void Announce(VmmPage* page);

// Bodies of the processes; they do not return before the VMM has nothing left to do. `agent_fd` is
// the inherited connection.
[[noreturn]] void RunFakeSource(VmmPage* page, int agent_fd);
[[noreturn]] void RunFakeTarget(VmmPage* page, int agent_fd);

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_FAKE_VMM_H_
