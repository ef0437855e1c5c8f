/* SPDX-License-Identifier: Apache-2.0
 *
 * The paused source: what it may do about each verdict. docs/handover.md has the argument; in
 * short, it resumes the guest only when the verdict is ABORTED and its own VM is alive, and it
 * makes the verdict ABORTED only while nobody has claimed the guest, or when the claimant is proven
 * dead.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/process.h"

/* A VM that could not be asked is not alive here either: whoever cannot tell does not resume, and
 * does not kill for the guest's sake. It is asked again with each turn. */
static bool vm_is_alive(const struct rehome_agent *agent) {
  return agent->ops->probe_vm == NULL || agent->ops->probe_vm(agent->opaque) == 0;
}

static void note_why(struct rehome_source *source, const char *why) {
  if (source->why[0] == '\0') rehome_copy_text(source->why, sizeof(source->why), why);
}

/* Only somebody else can end the pause: say so, once, and go on watching. */
static void strand(struct rehome_agent *agent, const char *why) {
  if (agent->state == REHOME_STATE_STRANDED) return;
  agent->state = REHOME_STATE_STRANDED;
  rehome_copy_text(agent->source.stranded_why, sizeof(agent->source.stranded_why), why);
  rehome_events_push(agent, REHOME_EVENT_VM_DEAD, why);
}

void rehome_source_say_again(struct rehome_agent *agent) {
  if (agent->state == REHOME_STATE_STRANDED) {
    rehome_events_push(agent, REHOME_EVENT_VM_DEAD, agent->source.stranded_why);
  } else if (agent->state == REHOME_STATE_HANDED_OVER) {
    rehome_events_push(agent, REHOME_EVENT_HANDED_OVER, "");
  }
}

static void resume(struct rehome_agent *agent) {
  agent->ops->resume(agent->opaque);
  rehome_events_push(agent, REHOME_EVENT_RESUMED, agent->source.why);
  rehome_source_idle(agent);
}

static void tick_aborted(struct rehome_agent *agent) {
  note_why(&agent->source, "the verdict became ABORTED");
  /* A target can have refused after a MOVE that failed half-way (kernel-abi: RFC v2 marks the
   * source dead first). Only this process can tell. */
  if (!vm_is_alive(agent)) {
    strand(agent, "the verdict is ABORTED and the VM is dead here");
    return;
  }
  resume(agent);
}

static void tick_running(struct rehome_agent *agent) {
  agent->state = REHOME_STATE_HANDED_OVER;
  pthread_mutex_lock(&agent->lock);
  agent->has_registration = false; /* the guest is the target's to announce */
  pthread_mutex_unlock(&agent->lock);
  if (agent->ops->handed_over != NULL) agent->ops->handed_over(agent->opaque);
  rehome_events_push(agent, REHOME_EVENT_HANDED_OVER, "");
}

static void tick_open(struct rehome_agent *agent, uint64_t now) {
  struct rehome_source *source = &agent->source;
  if (source->abort_wanted) {
    note_why(source, "the pause failed");
  } else if (now >= source->claim_deadline_ns) {
    note_why(source, "no claim before the deadline");
  } else if (rehome_process_exited(source->target_pidfd)) {
    note_why(source, "the target exited before it claimed");
  } else {
    return;
  }
  /* If somebody was faster, the next turn sees what it is now. */
  if (rehome_block_move_verdict(&source->block, REHOME_VERDICT_OPEN, REHOME_VERDICT_ABORTED) == 0) {
    tick_aborted(agent);
  }
}

/* The target is proven dead, so nobody but the daemon can change the verdict any more, and a MOVE
 * that it began is over. */
static void take_back(struct rehome_agent *agent, uint32_t verdict) {
  struct rehome_source *source = &agent->source;
  if (rehome_block_verdict(&source->block) != verdict) return; /* its last act; look again */
  if (!vm_is_alive(agent)) {
    strand(agent, "the target moved the VM and died before it ran the guest");
    return;
  }
  if (verdict == REHOME_VERDICT_COMMITTED && rehome_moves_context(source->block.strategy)) {
    strand(agent, "the verdict says moved, the VM here is alive, and the target is dead");
    return;
  }
  note_why(source, "the target died before it ran the guest");
  int result = rehome_block_move_verdict(&source->block, verdict, REHOME_VERDICT_ABORTED);
  if (result == -EAGAIN) return;
  resume(agent); /* -EPERM: the word holds garbage, from which nobody can go on either */
}

/* When the target claimed. Its stamp is a claim too: believed only where it is possible. */
static uint64_t claimed_at(const struct rehome_source *source, uint64_t now) {
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(&source->block, phases);
  uint64_t claimed = phases[REHOME_PHASE_CLAIMED];
  return claimed >= source->started_ns && claimed <= now ? claimed : now;
}

/* The target outlived the resolve deadline: stop it, if it may still be stopped. */
static void stop_target(struct rehome_agent *agent, uint64_t now) {
  struct rehome_source *source = &agent->source;
  if (rehome_moves_context(source->block.strategy) && !vm_is_alive(agent)) {
    /* A slow target is the guest's only hope now; killing it would gain nothing. */
    strand(agent, "the VM has been moved and the target has not run the guest in time");
    return;
  }
  if (rehome_block_condemn(&source->block, REHOME_SIDE_TARGET) != 0) {
    strand(agent, "the target did not run the guest in time, and this process is condemned");
    return;
  }
  int result = rehome_process_kill(source->target_pidfd);
  if (result != 0) {
    char text[REHOME_TEXT_SIZE];
    snprintf(text, sizeof(text), "the target hangs and cannot be killed: %s", strerror(-result));
    strand(agent, text);
    return;
  }
  note_why(source, "the target did not run the guest in time and was killed");
  source->exit_deadline_ns = now + REHOME_EXIT_TIMEOUT_MS * REHOME_NS_PER_MS;
}

static void tick_claimed(struct rehome_agent *agent, uint32_t verdict, uint64_t now) {
  struct rehome_source *source = &agent->source;
  bool killed = source->exit_deadline_ns != 0;
  bool dead = killed ? rehome_process_stopped(source->target_pidfd)
                     : rehome_process_exited(source->target_pidfd);
  if (dead) {
    take_back(agent, verdict);
    return;
  }
  if (agent->state == REHOME_STATE_STRANDED) return;
  if (source->resolve_deadline_ns == 0) {
    source->resolve_deadline_ns = claimed_at(source, now) + source->block.resolve_timeout_ns;
  }
  if (killed) {
    if (now >= source->exit_deadline_ns) strand(agent, "the target does not die");
  } else if (now >= source->resolve_deadline_ns) {
    stop_target(agent, now);
  }
}

void rehome_source_tick(struct rehome_agent *agent) {
  if (agent->state != REHOME_STATE_PAUSED && agent->state != REHOME_STATE_STRANDED) return;
  uint64_t now = rehome_monotonic_ns();
  uint32_t verdict = rehome_block_verdict(&agent->source.block);
  switch ((enum rehome_verdict)verdict) {
    case REHOME_VERDICT_OPEN:
      tick_open(agent, now);
      return;
    case REHOME_VERDICT_CLAIMED:
    case REHOME_VERDICT_COMMITTED:
      tick_claimed(agent, verdict, now);
      return;
    case REHOME_VERDICT_RUNNING:
      tick_running(agent);
      return;
    case REHOME_VERDICT_ABORTED:
      tick_aborted(agent);
      return;
  }
  tick_claimed(agent, verdict, now); /* garbage: whoever wrote it has until the deadline */
}

void rehome_source_wait(struct rehome_agent *agent) {
  const struct rehome_source *source = &agent->source;
  if (agent->state != REHOME_STATE_PAUSED || source->abort_wanted) return;
  uint64_t deadline = rehome_monotonic_ns() + REHOME_VERDICT_SLICE_MS * REHOME_NS_PER_MS;
  if (source->claim_deadline_ns < deadline && source->resolve_deadline_ns == 0) {
    deadline = source->claim_deadline_ns;
  }
  (void)rehome_block_wait_verdict_in(&source->block, REHOME_VERDICTS_FINAL, deadline);
}
