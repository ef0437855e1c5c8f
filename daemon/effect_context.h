// SPDX-License-Identifier: Apache-2.0
//
// What the effects of one migration share. Each effect is a function of this and the record.
#ifndef REHOME_DAEMON_EFFECT_CONTEXT_H_
#define REHOME_DAEMON_EFFECT_CONTEXT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "daemon/effect_timeouts.h"
#include "daemon/effects.h"
#include "daemon/escrow.h"
#include "daemon/escrow_store.h"
#include "daemon/fd_kinds.h"
#include "daemon/fence.h"
#include "daemon/interrupt.h"
#include "daemon/launcher.h"
#include "daemon/vm_directory.h"
#include "kvmglue/capabilities.h"

namespace rehome {

struct EffectDependencies {
  const HostCapabilities* host;
  VmDirectory* vms;
  Launcher* launcher;
  Fence* fence;
  // AgentServer::AdoptTarget: waits for the launched VMM's HELLO.
  std::function<absl::StatusOr<std::shared_ptr<VmmLink>>(LaunchedVmm&, std::chrono::milliseconds,
                                                         Interrupt*)>
      adopt_target;
  EffectTimeouts timeouts;
  EscrowStore* store;
  const FdKinds* fd_kinds;
  // AgentServer::AwaitLink: the living connection of exactly that process. Used by a daemon that
  // took over from another, and for a source that had to connect again.
  std::function<absl::StatusOr<std::shared_ptr<VmmLink>>(const ProcessIdentity&,
                                                         std::chrono::milliseconds, Interrupt*)>
      await_link;
  // Whether the journal may lack records (JournalRepair::may_miss_records()): what is on record may
  // then be older than what was done. Null: it lacks none.
  std::function<bool()> may_miss_records = {};
  // Takes the trace of a migration of which nothing more happens; must not fail or wait for long.
  // Null: no traces are recorded.
  std::function<void(const std::string& migration_id, const MigrationTrace&)> keep_trace = {};
};

struct EffectContext {
  const EffectDependencies& dependencies;
  Escrow& escrow;
  Interrupt& interrupt;
};

// An outcome that carries an error: INTERRUPTED becomes kInterrupted, anything else `event`.
Outcome FailedOutcome(Event event, const absl::Status& status, Migration update);

// SIGKILL to exit of a process that maps the guest's memory.
std::chrono::milliseconds ExitTimeout(const EffectContext& context);

// Whether the process behind the pidfd has exited (it may be a zombie still). An invalid descriptor
// stands for a process that was proven gone, or was never started.
bool HasExited(BorrowedFd pidfd);
// The same, waiting up to `timeout` for it.
bool AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout);
// SIGKILL; OK if it is gone already.
absl::Status KillProcess(EffectContext& context, const UniqueFd& pidfd);

// Why there is no guest any more if the source has said that it ended by itself, or says so within
// `wait`. The event is taken and kept in the escrow: it may be asked for again.
std::optional<Failure> GuestEnded(EffectContext& context, const Migration& record,
                                  std::chrono::milliseconds wait);

// Why the source has taken its guest back, if it has said so, or does within `wait`; kept likewise.
std::optional<std::string> WhyResumed(EffectContext& context, const Migration& record,
                                      std::chrono::milliseconds wait);

// Puts on record the kernel's word, by the source's own mouth (VmmLink::Probe::vm_dead), that its
// VM is dead. The first time is kept: once its process is dead too, nobody can say so any more.
void NoteVmDead(Migration& record);

// Says in the block that the source has stopped for good, as seen at `stopped_ns`, and notes under
// BEFORE_RESUME that it was we who saw it.
void AnnounceStopped(EffectContext& context, Migration& record, uint64_t stopped_ns);

uint64_t Nanoseconds(std::chrono::milliseconds duration);
// Of the blackout, as the block has it (ClaimTimeoutOf() of rescue_rules.h).
std::chrono::milliseconds ClaimTimeout(const EffectContext& context, const Migration& record);
// CLOCK_MONOTONIC ns at which both deadlines have passed and the VMMs have had time to act on it.
uint64_t OverdueNs(const EffectContext& context, const Migration& record);

}  // namespace rehome

#endif  // REHOME_DAEMON_EFFECT_CONTEXT_H_
