// SPDX-License-Identifier: Apache-2.0
//
// The target acts, and dies, between the source's look at the verdict and its look at the target:
// the verdict that the source has read is not the last one then. The linker puts this file's
// function in the place of the agent's (--wrap), so that the source can be held between the two.
#include <semaphore.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "gtest/gtest.h"
#include "vmm/agent/handover_fixture.h"
#include "vmm/agent/process.h"

extern "C" {
int __real_rehome_process_exited(int pidfd);
int __wrap_rehome_process_exited(int pidfd);
}

namespace rehome {
namespace {

// Shared with the VMMs, which are forked from the test.
struct Gate {
  // Looks of the source that pass before one is held; negative: none is.
  std::atomic<int> passing = -1;
  std::atomic<pid_t> target = 0;  // always passes
  sem_t held, let_go;
};

Gate& TheGate() {
  static Gate* const gate = [] {
    void* const page =
        mmap(nullptr, sizeof(Gate), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    Gate* const made = new (page) Gate;
    sem_init(&made->held, 1, 0);
    sem_init(&made->let_go, 1, 0);
    return made;
  }();
  return *gate;
}

bool Await(sem_t& semaphore) {
  const uint64_t at = rehome_monotonic_ns() + kFakeDaemonTimeoutMs * kMs;
  const timespec deadline = {.tv_sec = static_cast<time_t>(at / (1000 * kMs)),
                             .tv_nsec = static_cast<long>(at % (1000 * kMs))};
  return sem_clockwait(&semaphore, CLOCK_MONOTONIC, &deadline) == 0;
}

void PassGate() {
  Gate& gate = TheGate();
  if (gate.passing.load() < 0 || getpid() == gate.target.load()) return;
  if (gate.passing.fetch_sub(1) > 0) return;
  sem_post(&gate.held);
  Await(gate.let_go);
}

}  // namespace
}  // namespace rehome

int __wrap_rehome_process_exited(int pidfd) {
  rehome::PassGate();
  return __real_rehome_process_exited(pidfd);
}

namespace rehome {
namespace {

// Holds the source at its look at a target that has claimed, lets the target get to `last` and
// kills it there.
void DieAt(Handover& handover, Step last) {
  handover.HangAt(Step::kClaimed);
  ASSERT_TRUE(handover.Lead(Stage::kStarted));
  ASSERT_TRUE(handover.WaitFor(Step::kClaimed));
  TheGate().target = handover.target_pid();
  // The next look may be one before which the source has still read OPEN.
  TheGate().passing = 1;
  ASSERT_TRUE(Await(TheGate().held));
  handover.HangAt(last);
  Announce(&handover.page());
  ASSERT_TRUE(handover.WaitFor(last));
  handover.KillTarget();
  sem_post(&TheGate().let_go);
}

TEST(LastAct, ATargetThatRanTheGuestAndDiedIsNotSaidToHaveDiedBefore) {
  (void)TheGate();  // before the fork
  Handover handover(kLinkMove);
  ASSERT_NO_FATAL_FAILURE(DieAt(handover, Step::kRunning));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  for (const rehome_event& event : handover.source().events()) {
    EXPECT_NE(event.kind, static_cast<uint32_t>(REHOME_EVENT_VM_DEAD)) << event.text;
  }
  EXPECT_EQ(handover.page().resumes.load(), 0u);
}

TEST(LastAct, AGuestWhoseTargetRanItWithoutMoveIsNotTakenBack) {
  (void)TheGate();
  Handover handover(kMap);
  ASSERT_NO_FATAL_FAILURE(DieAt(handover, Step::kRunning));
  EXPECT_TRUE(handover.source().AwaitEvent(REHOME_EVENT_HANDED_OVER));
  EXPECT_EQ(handover.page().resumes.load(), 0u);
  EXPECT_EQ(handover.verdict(), static_cast<uint32_t>(REHOME_VERDICT_RUNNING));
}

}  // namespace
}  // namespace rehome
