/* SPDX-License-Identifier: Apache-2.0
 *
 * The target's blackout, called by its vCPU threads. Nothing here takes a lock or allocates before
 * the guest runs; the library's thread is woken only when something went wrong.
 */
#include <errno.h>
#include <string.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/process.h"

static struct rehome_block *mapped_block(struct rehome_agent *agent) {
  return atomic_load_explicit(&agent->takeover.mapped, memory_order_acquire);
}

/* The library's thread sees verdict and fence word and tells the VMM to exit. */
static int cancelled(struct rehome_agent *agent) {
  rehome_agent_wake(agent);
  return -ECANCELED;
}

static int failed(struct rehome_agent *agent, int result, const char *text) {
  rehome_events_push(agent, REHOME_EVENT_TAKE_OVER_FAILED, text);
  rehome_agent_wake(agent);
  return result;
}

int rehome_target_wait(struct rehome_agent *agent, uint64_t spin_ns) {
  const struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  uint64_t deadline = rehome_monotonic_ns() + REHOME_TARGET_WAIT_MS * REHOME_NS_PER_MS;
  int result = rehome_block_wait_source_ready(block, deadline, spin_ns);
  return result == -ECANCELED ? cancelled(agent) : result;
}

int rehome_target_claim(struct rehome_agent *agent) {
  struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  int result = rehome_block_wait_source_ready(block, 1, 0);
  if (result == -ETIMEDOUT) return -EINVAL; /* there is nothing to take over yet */
  if (result != 0) return cancelled(agent);
  if (rehome_block_move_verdict(block, REHOME_VERDICT_OPEN, REHOME_VERDICT_CLAIMED) != 0) {
    return cancelled(agent);
  }
  atomic_store(&agent->takeover.claimed_ns, rehome_monotonic_ns());
  rehome_block_stamp(block, REHOME_PHASE_CLAIMED);
  if (!rehome_moves_context(block->strategy)) {
    rehome_block_stamp_as(block, REHOME_PHASE_MOVED, REHOME_PHASE_CLAIMED);
  }
  return 0;
}

int rehome_target_may_move(struct rehome_agent *agent) {
  struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  if (rehome_block_verdict(block) != REHOME_VERDICT_CLAIMED ||
      rehome_block_fence_state(block) == REHOME_FENCE_STATE_TARGET_CONDEMNED) {
    return cancelled(agent);
  }
  return 0;
}

int rehome_target_commit(struct rehome_agent *agent) {
  struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  int result = rehome_block_move_verdict(block, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED);
  return result == 0 ? 0 : cancelled(agent);
}

/* PROVEN is also said of a source that has stopped and is still dying. */
static bool source_is_dead(struct rehome_agent *agent, const struct rehome_block *block) {
  return rehome_block_fence_state(block) == REHOME_FENCE_STATE_PROVEN ||
         rehome_process_exited(atomic_load(&agent->takeover.source_pidfd));
}

int rehome_target_refuse(struct rehome_agent *agent, const char *text) {
  struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  /* The event first: the source resumes at once and the daemon wants to know why. */
  rehome_events_push(agent, REHOME_EVENT_TAKE_OVER_FAILED, text);
  int result = 0;
  /* From ABORTED a dead source may have gone on before it died, so nobody could go on from its
   * state any more. From CLAIMED a rescue can, once this process is gone. */
  if (!source_is_dead(agent, block)) {
    result = rehome_block_move_verdict(block, REHOME_VERDICT_CLAIMED, REHOME_VERDICT_ABORTED);
  }
  if (result == 0) atomic_store(&agent->takeover.refused, true);
  rehome_agent_wake(agent);
  return result == 0 ? 0 : -ECANCELED;
}

/* ---- the fence ---- */

/* The source is condemned, so nothing but the proof is missing. `killed`: it was sent SIGKILL from
 * here; else only its exit is a proof, and whoever condemned it brings another. */
static int await_stopped(struct rehome_block *block, int source_pidfd, bool killed) {
  uint64_t now = rehome_monotonic_ns();
  uint64_t give_up = now + REHOME_EXIT_TIMEOUT_MS * REHOME_NS_PER_MS;
  for (; now < give_up; now = rehome_monotonic_ns()) {
    bool stopped =
        killed ? rehome_process_stopped(source_pidfd) : rehome_process_exited(source_pidfd);
    if (stopped) {
      rehome_block_set_fence_proven(block);
      return 0;
    }
    uint64_t slice = now + REHOME_EXIT_SLICE_MS * REHOME_NS_PER_MS;
    if (rehome_block_wait_fence_proven(block, slice) == 0) return 0;
  }
  return -ETIMEDOUT;
}

/* Nobody proved in time that the source has stopped, so the daemon is gone, stuck or slow. */
static int fence_source(struct rehome_agent *agent, struct rehome_block *block) {
  int source_pidfd = atomic_load(&agent->takeover.source_pidfd);
  bool can_kill = rehome_process_may_kill(source_pidfd) == 0;
  if (can_kill) {
    if (rehome_block_condemn(block, REHOME_SIDE_SOURCE) != 0) return cancelled(agent);
    /* A process that slept through its deadlines may be too late: the source has its guest back. */
    if (rehome_block_verdict(block) != REHOME_VERDICT_COMMITTED) return cancelled(agent);
    can_kill = rehome_process_kill(source_pidfd) == 0;
  } else if (rehome_block_condemn(block, REHOME_SIDE_TARGET) == 0) {
    /* Now nobody kills the source any more, and it takes the guest back once this process is gone.
     * To leave without that could cost the guest: a slow daemon might be about to kill. */
    return failed(agent, -ETIMEDOUT, "no proof that the source stopped, and it cannot be killed");
  }
  int result = await_stopped(block, source_pidfd, can_kill);
  return result == 0 ? 0 : failed(agent, result, "the condemned source does not stop");
}

static int pass_fence(struct rehome_agent *agent, struct rehome_block *block) {
  if (block->fence_policy != REHOME_FENCE_BEFORE_RESUME) {
    /* From here on the source may be killed and this process may not. */
    int result = rehome_block_condemn(block, REHOME_SIDE_SOURCE);
    return result == 0 ? 0 : cancelled(agent);
  }
  /* The other half is left for the kill and its proof, before the source's deadline. */
  uint64_t deadline = atomic_load(&agent->takeover.claimed_ns) + block->resolve_timeout_ns / 2;
  int result = rehome_block_wait_fence_proven(block, deadline);
  if (result == -ECANCELED) return cancelled(agent);
  return result == 0 ? 0 : fence_source(agent, block);
}

int rehome_target_run(struct rehome_agent *agent) {
  struct rehome_block *block = mapped_block(agent);
  if (block == NULL) return -EINVAL;
  rehome_block_stamp(block, REHOME_PHASE_RESTORED); /* of a VMM that has not stamped it */
  int result = pass_fence(agent, block);
  if (result != 0) return result;
  if (block->fence_policy == REHOME_FENCE_BEFORE_RESUME) {
    rehome_block_stamp(block, REHOME_PHASE_FENCED);
  } else {
    rehome_block_stamp_as(block, REHOME_PHASE_FENCED, REHOME_PHASE_RESTORED);
  }
  if (rehome_block_set_running(block) != 0) return cancelled(agent);
  rehome_block_stamp(block, REHOME_PHASE_RUNNING);
  return 0;
}

int rehome_target_first_run(struct rehome_agent *agent, const struct rehome_register *vm,
                            const char *failure) {
  struct rehome_block *block = mapped_block(agent);
  if (failure != NULL) {
    /* The event first: whoever wakes wants to know what came of RUNNING. */
    rehome_events_push(agent, REHOME_EVENT_FIRST_RUN_FAILED, failure);
    if (block != NULL) rehome_block_tell_running(block);
    rehome_agent_wake(agent);
    return 0;
  }
  if (block == NULL) return -EINVAL;
  rehome_block_tell_running(block);
  return rehome_agent_announce(agent, vm, true);
}
