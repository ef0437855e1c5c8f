/* SPDX-License-Identifier: Apache-2.0
 *
 * The source until it has paused: DESCRIBE, ARM_SOURCE, START. What follows is in verdict.c.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/description.h"
#include "vmm/agent/process.h"

void rehome_source_init(struct rehome_agent *agent) {
  agent->source = (struct rehome_source){.block_fd = -1, .target_pidfd = -1};
}

/* Whoever waits for this source must not wait on. If the verdict is final already, that is fine. */
static void abort_if_open(struct rehome_agent *agent) {
  if (agent->source.block.shared == NULL) return;
  (void)rehome_block_move_verdict(&agent->source.block, REHOME_VERDICT_OPEN,
                                  REHOME_VERDICT_ABORTED);
}

void rehome_source_drop(struct rehome_agent *agent) {
  struct rehome_source *source = &agent->source;
  abort_if_open(agent);
  rehome_agent_trace_close(agent);
  if (source->target_pidfd >= 0) close(source->target_pidfd);
  if (source->block_fd >= 0) close(source->block_fd);
  rehome_block_unmap(&source->block);
  rehome_source_init(agent);
}

void rehome_source_idle(struct rehome_agent *agent) {
  rehome_source_drop(agent);
  agent->state = REHOME_STATE_IDLE;
}

void rehome_source_forget(struct rehome_agent *agent) {
  abort_if_open(agent);
  if (agent->ops->cancelled != NULL) agent->ops->cancelled(agent->opaque);
  rehome_source_idle(agent);
}

/* Without START the guest has not been paused, and without the daemon START will not come. */
void rehome_source_connection_lost(struct rehome_agent *agent) { rehome_source_forget(agent); }

/* ---- DESCRIBE ---- */

uint32_t rehome_source_ask(struct rehome_agent *agent, int hold, bool *held,
                           struct rehome_error *error) {
  struct rehome_vm *vm = &agent->vm;
  if (agent->ops->describe == NULL) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "this VMM cannot be a source");
  }
  memset(vm, 0, sizeof(*vm));
  int result = agent->ops->describe(agent->opaque, hold, vm, error);
  if (result != 0) return rehome_error_complete(error, result, "describe");
  *held = hold != 0;
  const char *defect = rehome_vm_defect(vm, REHOME_DESCRIBED_ROLES);
  if (defect == NULL) defect = rehome_vm_lacks(vm);
  if (defect == NULL && vm->fd_count > REHOME_MAX_DESCRIBED_FDS) defect = "too many fds";
  if (defect == NULL && vm->state_format_oldest != 0 && agent->ops->arm_source == NULL) {
    defect = "state formats to choose from, and no arm_source to be told";
  }
  if (defect != NULL) {
    return rehome_error_set(error, REHOME_REFUSED_INTERNAL, "the VMM described itself with: %s",
                            defect);
  }
  if ((agent->connection.features & REHOME_FEATURE_FORMATS) == 0) vm->state_format_oldest = 0;
  return REHOME_REFUSED_NONE;
}

static uint32_t describe(struct rehome_agent *agent, int hold, bool *held,
                         struct rehome_error *error) {
  uint32_t refusal = rehome_source_ask(agent, hold, held, error);
  return refusal != REHOME_REFUSED_NONE ? refusal
                                        : rehome_connection_answer(agent, &agent->vm, error);
}

void rehome_source_describe(struct rehome_agent *agent) {
  struct rehome_describe request;
  struct rehome_error error = {0};
  memcpy(&request, agent->in.payload, sizeof(request));
  bool holds = agent->state != REHOME_STATE_IDLE;
  bool same = strcmp(request.migration_id, agent->migration_id) == 0;
  if (request.hold && (agent->state == REHOME_STATE_ARMED || (holds && !same))) {
    rehome_error_set(&error, REHOME_REFUSED_BUSY, "%s is under way", agent->migration_id);
    rehome_connection_refuse(agent, &error);
    return;
  }
  bool held_now = false;
  if (describe(agent, (int)request.hold, &held_now, &error) != REHOME_REFUSED_NONE) {
    if (held_now && !holds && agent->ops->cancelled != NULL) agent->ops->cancelled(agent->opaque);
    rehome_connection_refuse(agent, &error);
    return;
  }
  if (request.hold) {
    uint32_t newest = agent->vm.state_format;
    uint32_t oldest = agent->vm.state_format_oldest;
    agent->offer = (struct rehome_offer){.oldest = oldest == 0 ? newest : oldest, .newest = newest};
  }
  if (request.hold && !holds) {
    rehome_agent_set_migration(agent, request.migration_id);
    agent->state = REHOME_STATE_HELD;
  }
}

/* ---- ARM_SOURCE ---- */

/* Reads either form of ARM_SOURCE: without a format of the daemon's choice it is the newest. */
static uint32_t read_arms(struct rehome_agent *agent, struct rehome_arm_source *request,
                          struct rehome_error *error) {
  bool chooses = (agent->connection.features & REHOME_FEATURE_FORMATS) != 0;
  size_t size = chooses ? sizeof(*request) : sizeof(request->arm);
  if (agent->in.header.payload_size != size) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED,
                            "ARM_SOURCE has a state format exactly if FORMATS was agreed on");
  }
  request->state_format = agent->offer.newest;
  memcpy(request, agent->in.payload, size);
  if (request->state_format < agent->offer.oldest || request->state_format > agent->offer.newest) {
    return rehome_error_set(error, REHOME_REFUSED_STATE_FORMAT,
                            "state format %u, %s %s offered %u to %u", request->state_format,
                            agent->hello.vmm_name, agent->hello.vmm_version, agent->offer.oldest,
                            agent->offer.newest);
  }
  return REHOME_REFUSED_NONE;
}

/* Takes block and pidfd in; on a refusal the caller drops what was taken. */
static uint32_t take_arms(struct rehome_agent *agent, const struct rehome_arm_source *request,
                          struct rehome_error *error) {
  struct rehome_source *source = &agent->source;
  const struct rehome_agent_ops *ops = agent->ops;
  int result = rehome_block_map(agent->in.fds[0], &source->block);
  if (result == -ENOMEM) {
    return rehome_error_set(error, REHOME_REFUSED_RESOURCES, "no memory for the handover block");
  }
  if (result != 0) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "this is no handover block");
  }
  if (strcmp(source->block.migration_id, request->arm.migration_id) != 0) {
    return rehome_error_set(error, REHOME_REFUSED_WRONG_MIGRATION, "the block is of %s",
                            source->block.migration_id);
  }
  result = rehome_process_check(agent->in.fds[1]);
  if (result == -EBADF) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "the second fd is no pidfd");
  }
  if (result != 0) {
    return rehome_error_set(error, REHOME_REFUSED_KERNEL, "the target's pidfd: %s",
                            strerror(-result));
  }
  if (ops->pause_and_save == NULL || ops->layout_digest == NULL || ops->resume == NULL) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "this VMM cannot hand over");
  }
  if (rehome_moves_context(source->block.strategy) && ops->probe_vm == NULL) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "MOVE needs probe_vm");
  }
  source->block_fd = rehome_packet_take_fd(&agent->in, 0);
  source->target_pidfd = rehome_packet_take_fd(&agent->in, 1);
  source->layout_digest = request->arm.layout_digest;
  source->state_format = request->state_format;
  if (ops->arm_source == NULL) return REHOME_REFUSED_NONE;
  result = ops->arm_source(agent->opaque, &source->block, source->state_format, error);
  return result == 0 ? (uint32_t)REHOME_REFUSED_NONE
                     : rehome_error_complete(error, result, "arm_source");
}

void rehome_source_arm(struct rehome_agent *agent) {
  struct rehome_arm_source request = {0};
  struct rehome_error error = {0};
  if (read_arms(agent, &request, &error) != REHOME_REFUSED_NONE ||
      take_arms(agent, &request, &error) != REHOME_REFUSED_NONE) {
    rehome_source_drop(agent);
    rehome_connection_refuse(agent, &error);
    return;
  }
  agent->state = REHOME_STATE_ARMED;
  rehome_connection_reply(agent, NULL, 0);
}

/* ---- START ---- */

static uint32_t check_start(struct rehome_agent *agent, struct rehome_error *error) {
  const struct rehome_source *source = &agent->source;
  if (rehome_process_exited(source->target_pidfd)) {
    return rehome_error_set(error, REHOME_REFUSED_KERNEL, "the target has exited");
  }
  if (rehome_block_verdict(&source->block) != REHOME_VERDICT_OPEN) {
    return rehome_error_set(error, REHOME_REFUSED_WRONG_MIGRATION, "the verdict is not OPEN");
  }
  return REHOME_REFUSED_NONE;
}

/* Both: 0, or -1 with the reason in source->why. */
static int quiesce(struct rehome_agent *agent) {
  struct rehome_source *source = &agent->source;
  struct rehome_error error = {0};
  if (agent->ops->quiesce == NULL) return 0;
  int result = agent->ops->quiesce(agent->opaque, &source->block, &error);
  if (result != 0) {
    rehome_error_complete(&error, result, "quiesce");
    rehome_copy_text(source->why, sizeof(source->why), error.text);
    return -1;
  }
  /* It may have taken long. A guest is not paused for what is over already. */
  if (rehome_block_verdict(&source->block) != REHOME_VERDICT_OPEN) {
    rehome_copy_text(source->why, sizeof(source->why), "aborted before the pause");
    return -1;
  }
  if (rehome_monotonic_ns() >= source->claim_deadline_ns) {
    rehome_copy_text(source->why, sizeof(source->why), "quiescing the devices took too long");
    return -1;
  }
  return 0;
}

static int pause_and_announce(struct rehome_agent *agent) {
  struct rehome_source *source = &agent->source;
  struct rehome_error error = {0};
  uint64_t size = 0;
  rehome_block_stamp(&source->block, REHOME_PHASE_PAUSE_REQUESTED);
  int result = agent->ops->pause_and_save(agent->opaque, &source->block, &size, &error);
  if (result != 0) {
    rehome_error_complete(&error, result, "pause_and_save");
    rehome_copy_text(source->why, sizeof(source->why), error.text);
    return -1;
  }
  /* The guest can hot-plug and remap until it is paused; only now does the comparison hold. */
  if (agent->ops->layout_digest(agent->opaque) != source->layout_digest) {
    rehome_copy_text(source->why, sizeof(source->why), "the memory layout changed since DESCRIBE");
    return -1;
  }
  if (rehome_monotonic_ns() >= source->claim_deadline_ns) {
    rehome_copy_text(source->why, sizeof(source->why), "saving the state took too long");
    return -1;
  }
  rehome_block_stamp(&source->block, REHOME_PHASE_STATE_SAVED);
  result = rehome_block_set_source_ready(&source->block, size);
  if (result == -EMSGSIZE) {
    rehome_copy_text(source->why, sizeof(source->why), "the state is larger than its area");
    return -1;
  }
  return 0; /* -ECANCELED: the verdict says so, and the verdict is looked at next */
}

void rehome_source_start(struct rehome_agent *agent) {
  struct rehome_source *source = &agent->source;
  struct rehome_error error = {0};
  if (check_start(agent, &error) != REHOME_REFUSED_NONE) {
    rehome_connection_refuse(agent, &error);
    return;
  }
  rehome_connection_reply(agent, NULL, 0); /* before the pause: it costs the guest nothing here */
  source->started_ns = rehome_monotonic_ns();
  source->claim_deadline_ns = source->started_ns + source->block.claim_timeout_ns;
  agent->state = REHOME_STATE_PAUSED;
  rehome_agent_trace_start(agent);
  if (quiesce(agent) != 0 || pause_and_announce(agent) != 0) source->abort_wanted = true;
}

/* ---- CANCEL, RELEASE ---- */

void rehome_source_cancel(struct rehome_agent *agent) {
  struct rehome_error error = {0};
  if (agent->state != REHOME_STATE_PAUSED) {
    rehome_source_forget(agent);
    rehome_connection_reply(agent, NULL, 0);
    return;
  }
  abort_if_open(agent);
  if (rehome_block_verdict(&agent->source.block) == REHOME_VERDICT_ABORTED) {
    rehome_connection_reply(agent, NULL, 0); /* the next turn of the loop resumes the guest */
    return;
  }
  rehome_error_set(&error, REHOME_REFUSED_BUSY, "too late: the target has claimed the guest");
  rehome_connection_refuse(agent, &error);
}

void rehome_source_release(struct rehome_agent *agent) {
  rehome_connection_reply(agent, NULL, 0);
  rehome_connection_flush(agent);
  if (agent->ops->released != NULL) agent->ops->released(agent->opaque);
}
