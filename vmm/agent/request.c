/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests of the daemon: admitted by the state table, then handed to the half they are for.
 */
#include <errno.h>
#include <string.h>

#include "vmm/agent/agent_internal.h"

/* Types that name the migration that is under way. DESCRIBE and PREPARE begin one, and PROBE asks
 * about this process, whatever became of the migration. */
static bool must_match_migration(enum rehome_message type) {
  switch (type) {
    case REHOME_MSG_ARM_TARGET:
    case REHOME_MSG_ARM_SOURCE:
    case REHOME_MSG_START:
    case REHOME_MSG_CANCEL:
    case REHOME_MSG_RELEASE:
    case REHOME_MSG_HAND_IN:
      return true;
    case REHOME_MSG_DESCRIBE:
    case REHOME_MSG_PREPARE:
    case REHOME_MSG_PROBE:
    case REHOME_MSG_HELLO:
    case REHOME_MSG_REGISTER:
    case REHOME_MSG_EVENT:
    case REHOME_MSG_TRACE:
      return false;
  }
  return false;
}

static bool migration_under_way(enum rehome_agent_state state) {
  return state != REHOME_STATE_IDLE && state != REHOME_STATE_NEW;
}

static uint32_t admit(struct rehome_agent *agent, enum rehome_message type,
                      struct rehome_error *error) {
  uint32_t refusal = rehome_admit(agent->state, type);
  if (refusal != REHOME_REFUSED_NONE) {
    return rehome_error_set(error, refusal, "not in state %s", rehome_state_name(agent->state));
  }
  /* The payload of each of these begins with the id, checked to be terminated. */
  const char *id = (const char *)agent->in.payload;
  if (must_match_migration(type) && migration_under_way(agent->state) &&
      strcmp(id, agent->migration_id) != 0) {
    return rehome_error_set(error, REHOME_REFUSED_WRONG_MIGRATION, "%s is under way",
                            agent->migration_id);
  }
  return REHOME_REFUSED_NONE;
}

/* Of a target: the VMM has said that the first KVM_RUN came back. The verdict RUNNING would be too
 * early: a daemon takes this for the report that the guest has run. */
static bool first_run_is_done(struct rehome_agent *agent) {
  pthread_mutex_lock(&agent->lock);
  bool done = agent->first_run_done;
  pthread_mutex_unlock(&agent->lock);
  return done;
}

static bool guest_runs_here(struct rehome_agent *agent) {
  switch (agent->state) {
    case REHOME_STATE_IDLE:
    case REHOME_STATE_HELD:
    case REHOME_STATE_ARMED:
      return true;
    case REHOME_STATE_TAKE_OVER:
      return first_run_is_done(agent);
    case REHOME_STATE_PAUSED:
    case REHOME_STATE_STRANDED:
    case REHOME_STATE_HANDED_OVER:
    case REHOME_STATE_NEW:
    case REHOME_STATE_PREPARED:
    case REHOME_STATE_OFF:
      return false;
  }
  return false;
}

/* A daemon may end a process that says of its VM that it is dead: what is not EIO is no answer. */
static void handle_probe(struct rehome_agent *agent) {
  struct rehome_error error;
  if (agent->ops->probe_vm == NULL) {
    rehome_error_set(&error, REHOME_REFUSED_UNSUPPORTED, "this VMM has no probe");
    rehome_connection_refuse(agent, &error);
    return;
  }
  int result = agent->ops->probe_vm(agent->opaque);
  if (result != 0 && result != -EIO) {
    rehome_error_set(&error, REHOME_REFUSED_KERNEL, "the VM could not be probed: %s",
                     result < 0 ? strerror(-result) : "no errno");
    rehome_connection_refuse(agent, &error);
    return;
  }
  struct rehome_probe probe = {
      .vm_alive = result == 0,
      .guest_running = guest_runs_here(agent),
  };
  rehome_connection_reply(agent, &probe, sizeof(probe));
}

/* Nothing is under way: that is what CANCEL asks for. */
static void handle_cancel(struct rehome_agent *agent) {
  switch (agent->state) {
    case REHOME_STATE_IDLE:
    case REHOME_STATE_OFF:
      rehome_connection_reply(agent, NULL, 0);
      return;
    case REHOME_STATE_HELD:
    case REHOME_STATE_ARMED:
    case REHOME_STATE_PAUSED:
    case REHOME_STATE_STRANDED:
    case REHOME_STATE_HANDED_OVER:
      rehome_source_cancel(agent);
      return;
    case REHOME_STATE_NEW:
    case REHOME_STATE_PREPARED:
    case REHOME_STATE_TAKE_OVER:
      rehome_takeover_cancel(agent);
      return;
  }
}

/* An offer: whatever is wrong with it, the migration goes on without a trace. */
static void take_trace_area(struct rehome_agent *agent) {
  bool agreed = (agent->connection.features & REHOME_FEATURE_TRACE) != 0;
  bool waits_for_arm = agent->state == REHOME_STATE_HELD || agent->state == REHOME_STATE_PREPARED;
  const char *id = (const char *)agent->in.payload;
  if (!agreed || !waits_for_arm || strcmp(id, agent->migration_id) != 0) return;
  (void)rehome_trace_open(agent->trace, agent->in.fds[0]);
}

void rehome_request_handle(struct rehome_agent *agent) {
  enum rehome_message type = (enum rehome_message)agent->in.header.type;
  struct rehome_error error;
  if (type == REHOME_MSG_TRACE) {
    take_trace_area(agent);
    return;
  }
  /* It follows from the verdict, and the daemon can have seen that before this thread looked. */
  if (type == REHOME_MSG_RELEASE) rehome_source_tick(agent);
  if (admit(agent, type, &error) != REHOME_REFUSED_NONE) {
    rehome_connection_refuse(agent, &error);
    return;
  }
  switch (type) {
    case REHOME_MSG_DESCRIBE:
      rehome_source_describe(agent);
      return;
    case REHOME_MSG_PREPARE:
      rehome_takeover_prepare(agent);
      return;
    case REHOME_MSG_ARM_TARGET:
      rehome_takeover_arm(agent);
      return;
    case REHOME_MSG_ARM_SOURCE:
      rehome_source_arm(agent);
      return;
    case REHOME_MSG_START:
      rehome_source_start(agent);
      return;
    case REHOME_MSG_CANCEL:
      handle_cancel(agent);
      return;
    case REHOME_MSG_RELEASE:
      rehome_source_release(agent);
      return;
    case REHOME_MSG_PROBE:
      handle_probe(agent);
      return;
    case REHOME_MSG_HAND_IN:
      rehome_hand_in(agent);
      return;
    case REHOME_MSG_HELLO:
    case REHOME_MSG_REGISTER:
    case REHOME_MSG_EVENT:
    case REHOME_MSG_TRACE: /* above */
      return;              /* an agent does not receive them: wire.c refused the message */
  }
}
