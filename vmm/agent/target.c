/* SPDX-License-Identifier: Apache-2.0
 *
 * The target on the library's thread: ARM_TARGET, CANCEL, and the end of a take-over. PREPARE is in
 * target_prepare.c; the blackout is in target_run.c, on the VMM's threads.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/process.h"

void rehome_takeover_init(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  memset(&takeover->block, 0, sizeof(takeover->block));
  takeover->block_fd = -1;
  atomic_init(&takeover->mapped, NULL);
  atomic_init(&takeover->source_pidfd, -1);
  atomic_init(&takeover->claimed_ns, 0);
  atomic_init(&takeover->refused, false);
  takeover->source_gone = false;
  takeover->give_up_at_ns = REHOME_NEVER;
}

void rehome_takeover_drop(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  rehome_agent_trace_close(agent);
  int pidfd = atomic_exchange(&takeover->source_pidfd, -1);
  if (pidfd >= 0) close(pidfd);
  if (takeover->block_fd >= 0) close(takeover->block_fd);
  takeover->block_fd = -1;
  atomic_store(&takeover->mapped, NULL);
  rehome_block_unmap(&takeover->block);
}

void rehome_takeover_turn_off(struct rehome_agent *agent) {
  if (agent->takeover.block.shared != NULL) {
    /* Wakes the vCPU threads. Only from OPEN: a claim is the claimant's to settle. */
    (void)rehome_block_move_verdict(&agent->takeover.block, REHOME_VERDICT_OPEN,
                                    REHOME_VERDICT_ABORTED);
  }
  agent->state = REHOME_STATE_OFF;
  rehome_connection_flush(agent);
  if (agent->ops->cancelled != NULL) agent->ops->cancelled(agent->opaque);
}

/* ---- ARM_TARGET, CANCEL ---- */

/* Only in a rescue is the source known to have stopped before anybody could claim its guest: the
 * daemon has its state and announces it. */
static bool is_rescue(const struct rehome_takeover *takeover) {
  return rehome_block_fence_state(&takeover->block) == REHOME_FENCE_STATE_PROVEN;
}

/* 0, or what is wrong with the source's pidfd. */
static int check_source(const struct rehome_takeover *takeover, int pidfd) {
  int result = rehome_process_check(pidfd);
  return result == -ESRCH && is_rescue(takeover) ? 0 : result;
}

void rehome_takeover_arm(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  const struct rehome_agent_ops *ops = agent->ops;
  struct rehome_error error = {0};
  int result = check_source(takeover, agent->in.fds[0]);
  if (result != 0) {
    uint32_t refusal = result == -EBADF ? REHOME_REFUSED_MALFORMED : REHOME_REFUSED_KERNEL;
    rehome_error_set(&error, refusal, "the source's pidfd: %s", strerror(-result));
    rehome_connection_refuse(agent, &error);
    return;
  }
  result = ops->arm_target == NULL ? 0 : ops->arm_target(agent->opaque, &takeover->block, &error);
  if (result != 0) {
    rehome_error_complete(&error, result, "arm_target");
    rehome_connection_refuse(agent, &error);
    return;
  }
  atomic_store(&takeover->source_pidfd, rehome_packet_take_fd(&agent->in, 0));
  agent->state = REHOME_STATE_TAKE_OVER;
  rehome_agent_trace_start(agent);
  rehome_connection_reply(agent, NULL, 0);
}

void rehome_takeover_cancel(struct rehome_agent *agent) {
  struct rehome_block *block = &agent->takeover.block;
  struct rehome_error error = {0};
  if (block->shared != NULL) {
    (void)rehome_block_move_verdict(block, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED);
    if (rehome_block_verdict(block) != REHOME_VERDICT_ABORTED) {
      rehome_error_set(&error, REHOME_REFUSED_BUSY, "too late: the guest has been claimed");
      rehome_connection_refuse(agent, &error);
      return;
    }
  }
  rehome_connection_reply(agent, NULL, 0);
  rehome_takeover_turn_off(agent);
}

/* ---- what happens meanwhile ---- */

void rehome_takeover_connection_lost(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  if (agent->state != REHOME_STATE_TAKE_OVER) {
    rehome_takeover_turn_off(
        agent); /* the source cannot hand over to this process, and nobody will arm it now */
    return;
  }
  if (takeover->give_up_at_ns != REHOME_NEVER) return;
  takeover->give_up_at_ns = rehome_monotonic_ns() + takeover->block.claim_timeout_ns +
                            REHOME_START_MARGIN_MS * REHOME_NS_PER_MS;
}

static bool source_is_ready(const struct rehome_takeover *takeover) {
  return rehome_block_wait_source_ready(&takeover->block, 1, 0) == 0;
}

void rehome_takeover_source_exited(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  bool rescue = is_rescue(takeover);
  takeover->source_gone = true;
  rehome_block_set_fence_proven(&takeover->block);
  /* What it announced before it died is complete and can still be taken over. In a rescue it is not
   * the source who announces. */
  if (!rescue && !source_is_ready(takeover)) rehome_takeover_turn_off(agent);
}

static void become_owner(struct rehome_agent *agent) {
  rehome_takeover_drop(agent);
  agent->role = REHOME_ROLE_OWNER;
  agent->state = REHOME_STATE_IDLE;
}

/* Nobody has started the source, or it died; the compare-and-swap settles it if that is wrong. */
static void give_up_waiting(struct rehome_agent *agent) {
  agent->takeover.give_up_at_ns = REHOME_NEVER;
  if (!source_is_ready(&agent->takeover)) rehome_takeover_turn_off(agent);
}

/* Condemned, it may not run the guest and perhaps nobody may kill it: its exit is what the source
 * waits for. */
static bool has_lost_the_guest(const struct rehome_block *block) {
  uint32_t verdict = rehome_block_verdict(block);
  if (verdict == REHOME_VERDICT_ABORTED) return true;
  return (verdict == REHOME_VERDICT_CLAIMED || verdict == REHOME_VERDICT_COMMITTED) &&
         rehome_block_fence_state(block) == REHOME_FENCE_STATE_TARGET_CONDEMNED;
}

void rehome_takeover_tick(struct rehome_agent *agent) {
  if (agent->state != REHOME_STATE_PREPARED && agent->state != REHOME_STATE_TAKE_OVER) return;
  pthread_mutex_lock(&agent->lock);
  bool first_run_done = agent->first_run_done;
  agent->first_run_done = false;
  pthread_mutex_unlock(&agent->lock);
  if (first_run_done) {
    become_owner(agent);
  } else if (atomic_load(&agent->takeover.refused) || has_lost_the_guest(&agent->takeover.block)) {
    rehome_takeover_turn_off(agent);
  } else if (rehome_monotonic_ns() >= agent->takeover.give_up_at_ns) {
    give_up_waiting(agent);
  }
}

uint64_t rehome_takeover_deadline(const struct rehome_agent *agent) {
  return agent->state == REHOME_STATE_TAKE_OVER ? agent->takeover.give_up_at_ns : REHOME_NEVER;
}
