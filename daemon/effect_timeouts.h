// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_EFFECT_TIMEOUTS_H_
#define REHOME_DAEMON_EFFECT_TIMEOUTS_H_

#include <chrono>
#include <cstdint>

namespace rehome {

// How long a watcher sleeps on the verdict before it looks at cancels and dead processes, which
// have no futex to wake it, and at RUNNING, which wakes nobody at first. Every other change of the
// verdict wakes it at once.
inline constexpr uint64_t kVerdictSliceNs = 10'000'000;
// Beyond both deadlines of the block, for the VMMs' own threads to be scheduled and act first.
inline constexpr uint64_t kStuckMarginNs = 500'000'000;
// Between two looks, where nothing wakes us: of the order of what a process takes to die.
inline constexpr std::chrono::milliseconds kLookPause{20};

// Every wait of a migration. Before the blackout they only delay a failure; the two of the blackout
// bound how long the guest can stand still.
struct EffectTimeouts {
  // An agent's answer to one request while its guest runs: thread wake-ups under load, not work.
  std::chrono::milliseconds agent{2000};
  // From exec to HELLO: dynamic linking and argument parsing of a VMM on a busy host.
  std::chrono::milliseconds launch{10000};
  // PREPARE creates a VM, vCPUs and memslots (6 to 25 ms each under load) and may populate page
  // tables of all guest memory (0.2 s per GiB).
  std::chrono::milliseconds prepare{60000};
  // From the pause: an unclaimed verdict is aborted by the source itself.
  std::chrono::milliseconds claim{200};
  // From the claim: a claimant that hangs is killed. Covers restore and fence-before-resume.
  std::chrono::milliseconds resolve{1000};
  // From RUNNING to the target's word that a KVM_RUN came back.
  std::chrono::milliseconds first_run{5000};
  // RELEASE to a voluntary exit; after it the source is killed. It has nothing left to do.
  std::chrono::milliseconds release{100};
  // SIGKILL to exit, beside the teardown of page tables (exit_per_gib).
  std::chrono::milliseconds exit{10000};
  std::chrono::milliseconds exit_per_gib{1000};
  // Until an aborted verdict is followed by the source's RESUMED.
  std::chrono::milliseconds resume{2000};
  // For the agents of living processes to connect to a daemon that has just started: they try every
  // 200 ms (docs/agent-protocol.md), on a host that may be busy starting much else.
  std::chrono::milliseconds rejoin{2000};
};

}  // namespace rehome

#endif  // REHOME_DAEMON_EFFECT_TIMEOUTS_H_
