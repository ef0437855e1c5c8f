/* SPDX-License-Identifier: Apache-2.0
 *
 * HAND_IN: everything that a daemon which lost its own copies needs to settle a migration, from
 * either side.
 */
#include "vmm/agent/agent_internal.h"
#include "vmm/agent/description.h"

/* Of a source. What it will have written, or has, and not what it could have. */
static uint32_t gather_source(struct rehome_agent *agent, struct rehome_error *error) {
  bool held = false;
  uint32_t refusal = rehome_source_ask(agent, 0, &held, error);
  /* To the daemon that would say that there is nothing here. There is, and it cannot be had. */
  if (refusal == REHOME_REFUSED_WRONG_MIGRATION) {
    refusal = error->refusal = REHOME_REFUSED_INTERNAL;
  }
  agent->vm.state_format = agent->source.state_format;
  agent->vm.state_format_oldest = 0;
  return refusal;
}

/* Fills agent->vm with this side's own VM. */
static uint32_t gather(struct rehome_agent *agent, int *block_fd, struct rehome_error *error) {
  switch (agent->state) {
    case REHOME_STATE_ARMED:
    case REHOME_STATE_PAUSED:
    case REHOME_STATE_STRANDED:
    case REHOME_STATE_HANDED_OVER:
      *block_fd = agent->source.block_fd;
      return gather_source(agent, error);
    case REHOME_STATE_TAKE_OVER:
      *block_fd = agent->takeover.block_fd;
      agent->vm = agent->prepared;
      return REHOME_REFUSED_NONE;
    case REHOME_STATE_IDLE:
    case REHOME_STATE_HELD:
    case REHOME_STATE_NEW:
    case REHOME_STATE_PREPARED:
    case REHOME_STATE_OFF:
      break; /* not admitted */
  }
  return rehome_error_set(error, REHOME_REFUSED_WRONG_MIGRATION, "there is nothing to hand in");
}

static void add_block(struct rehome_vm *vm, int block_fd) {
  vm->fds[vm->fd_count] = (struct rehome_vm_fd){.entry.role = REHOME_FD_BLOCK, .fd = block_fd};
  vm->fd_count++;
}

void rehome_hand_in(struct rehome_agent *agent) {
  struct rehome_error error = {0};
  int block_fd = -1;
  uint32_t refusal;
  if ((agent->connection.features & REHOME_FEATURE_RECOVER) == 0) {
    refusal = rehome_error_set(&error, REHOME_REFUSED_UNSUPPORTED, "RECOVER was not agreed on");
  } else {
    refusal = gather(agent, &block_fd, &error);
  }
  if (refusal == REHOME_REFUSED_NONE) {
    add_block(&agent->vm, block_fd); /* there is room: REHOME_MAX_DESCRIBED_FDS */
    refusal = rehome_connection_answer(agent, &agent->vm, &error);
  }
  if (refusal != REHOME_REFUSED_NONE) rehome_connection_refuse(agent, &error);
}
