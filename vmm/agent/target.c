/* SPDX-License-Identifier: Apache-2.0
 *
 * The target on the library's thread: PREPARE, ARM_TARGET, CANCEL, and the end of a take-over. Its
 * blackout is in target_run.c, on the VMM's threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/description.h"
#include "vmm/agent/process.h"

#define PREPARE_ROLES (REHOME_DESCRIBED_ROLES | REHOME_ROLE_BIT(REHOME_FD_BLOCK))
/* What a target says it has bound. */
#define PREPARED_ROLES (REHOME_ROLE_BIT(REHOME_FD_VM) | REHOME_ROLE_BIT(REHOME_FD_MEMORY))

void rehome_takeover_init(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  memset(&takeover->block, 0, sizeof(takeover->block));
  atomic_init(&takeover->mapped, NULL);
  atomic_init(&takeover->source_pidfd, -1);
  atomic_init(&takeover->claimed_ns, 0);
  takeover->source_gone = false;
  takeover->give_up_at_ns = REHOME_NEVER;
}

void rehome_takeover_drop(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  int pidfd = atomic_exchange(&takeover->source_pidfd, -1);
  if (pidfd >= 0) close(pidfd);
  atomic_store(&takeover->mapped, NULL);
  rehome_block_unmap(&takeover->block);
}

/* The VMM is told to exit. The block stays mapped: its vCPU threads may still be looking at it. */
static void turn_off(struct rehome_agent *agent) {
  if (agent->takeover.block.shared != NULL) {
    /* Wakes the vCPU threads. Only from OPEN: a claim is the claimant's to settle. */
    (void)rehome_block_move_verdict(&agent->takeover.block, REHOME_VERDICT_OPEN,
                                    REHOME_VERDICT_ABORTED);
  }
  agent->state = REHOME_STATE_OFF;
  rehome_connection_flush(agent);
  if (agent->ops->cancelled != NULL) agent->ops->cancelled(agent->opaque);
}

/* ---- PREPARE ---- */

static bool moves_context(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

static uint32_t features_of(uint32_t strategy) {
  switch ((enum rehome_strategy)strategy) {
    case REHOME_STRATEGY_LINK_MOVE:
      return REHOME_FEATURE_LINK | REHOME_FEATURE_MOVE;
    case REHOME_STRATEGY_MAP_MOVE:
      return REHOME_FEATURE_MAP | REHOME_FEATURE_MOVE;
    case REHOME_STRATEGY_LINK:
      return REHOME_FEATURE_LINK;
    case REHOME_STRATEGY_MAP:
      return REHOME_FEATURE_MAP;
  }
  return UINT32_MAX; /* no such strategy: nobody has all features */
}

/* Takes the entry of `role` out of the list; its fd, or -1. */
static int remove_fd(struct rehome_vm *vm, uint32_t role) {
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    if (vm->fds[i].entry.role != role) continue;
    int fd = vm->fds[i].fd;
    vm->fd_count--;
    memmove(&vm->fds[i], &vm->fds[i + 1], (vm->fd_count - i) * sizeof(vm->fds[0]));
    return fd;
  }
  return -1;
}

static bool has_role(const struct rehome_vm *vm, uint32_t role) {
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    if (vm->fds[i].entry.role == role) return true;
  }
  return false;
}

/* Whoever reads CONFIG must be able to trust that it does not change meanwhile. */
static bool config_is_sound(const struct rehome_vm *vm) {
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    struct stat status;
    int fd = vm->fds[i].fd;
    if (vm->fds[i].entry.role != REHOME_FD_CONFIG) continue;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & wanted) != wanted || fstat(fd, &status) != 0) return false;
    if (status.st_size == 0 || status.st_size > REHOME_MAX_CONFIG) return false;
  }
  return true;
}

static uint32_t check_terms(const struct rehome_agent *agent, const struct rehome_prepare *request,
                            struct rehome_error *error) {
  const struct rehome_vm *source = &agent->vm;
  const struct rehome_block *block = &agent->takeover.block;
  if (strcmp(block->migration_id, request->migration_id) != 0) {
    return rehome_error_set(error, REHOME_REFUSED_WRONG_MIGRATION, "the block is of %s",
                            block->migration_id);
  }
  if (block->strategy != request->strategy || block->fence_policy != request->fence_policy) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "the block has other terms");
  }
  if (has_role(source, REHOME_FD_VM) != moves_context(request->strategy)) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED,
                            "the VM fd travels with MOVE strategies and no others");
  }
  if (!config_is_sound(source)) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED,
                            "CONFIG is no sealed memfd of 1 to %u bytes", REHOME_MAX_CONFIG);
  }
  uint32_t wanted = features_of(request->strategy);
  if (has_role(source, REHOME_FD_NAMED)) wanted |= REHOME_FEATURE_NAMED_FDS;
  if ((wanted & ~agent->connection.features) != 0) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "needs features 0x%x, agreed 0x%x",
                            wanted, agent->connection.features);
  }
  if (source->state_format < agent->hello.state_format_read_min ||
      source->state_format > agent->hello.state_format_read_max) {
    return rehome_error_set(error, REHOME_REFUSED_STATE_FORMAT, "state format %u, reads %u to %u",
                            source->state_format, agent->hello.state_format_read_min,
                            agent->hello.state_format_read_max);
  }
  return REHOME_REFUSED_NONE;
}

/* Reads the request into agent->vm and maps the block. */
static uint32_t accept_terms(struct rehome_agent *agent, const struct rehome_prepare *request,
                             struct rehome_error *error) {
  if (agent->ops->prepare == NULL) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "this VMM cannot be a target");
  }
  const char *defect =
      rehome_description_parse(&agent->in, sizeof(*request), PREPARE_ROLES, &agent->vm);
  if (defect != NULL) return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "%s", defect);
  int block_fd = remove_fd(&agent->vm, REHOME_FD_BLOCK);
  int result = block_fd < 0 ? -EINVAL : rehome_block_map(block_fd, &agent->takeover.block);
  if (result == -ENOMEM) {
    return rehome_error_set(error, REHOME_REFUSED_RESOURCES, "no memory for the handover block");
  }
  if (result != 0) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "this is no handover block");
  }
  return check_terms(agent, request, error);
}

/* The VMM owns the source's fds from here on, whatever it answers. */
static void give_fds_away(struct rehome_agent *agent) {
  for (uint32_t i = 0; i < agent->vm.fd_count; i++) {
    for (uint32_t j = 0; j < agent->in.header.fd_count; j++) {
      if (agent->in.fds[j] == agent->vm.fds[i].fd) rehome_packet_take_fd(&agent->in, j);
    }
  }
}

static uint32_t build(struct rehome_agent *agent, const struct rehome_prepare *request,
                      struct rehome_error *error) {
  struct rehome_vm *target = &agent->other_vm;
  atomic_store(&agent->takeover.mapped, &agent->takeover.block);
  give_fds_away(agent);
  memset(target, 0, sizeof(*target));
  int result = agent->ops->prepare(agent->opaque, request->strategy, request->fence_policy,
                                   &agent->vm, &agent->takeover.block, target, error);
  if (result != 0) return rehome_error_complete(error, result, "prepare");
  if (target->vm_id[0] == '\0') memcpy(target->vm_id, agent->vm.vm_id, sizeof(target->vm_id));
  const char *defect = rehome_vm_defect(target, PREPARED_ROLES);
  if (defect == NULL) defect = rehome_vm_lacks(target);
  if (defect != NULL) {
    return rehome_error_set(error, REHOME_REFUSED_INTERNAL, "the VMM described itself with: %s",
                            defect);
  }
  rehome_packet_init(&agent->out, REHOME_MSG_PREPARE, REHOME_FLAG_REPLY, agent->in.header.seq);
  rehome_description_append(&agent->out, target);
  result = rehome_connection_send_description(agent);
  if (result == 0 || result == -EPIPE || result == -EAGAIN) return REHOME_REFUSED_NONE;
  return rehome_error_set(error, REHOME_REFUSED_KERNEL, "sendmsg with %u fds: %s", target->fd_count,
                          strerror(-result));
}

void rehome_takeover_prepare(struct rehome_agent *agent) {
  struct rehome_prepare request;
  struct rehome_error error = {0};
  memcpy(&request, agent->in.payload, sizeof(request));
  if (accept_terms(agent, &request, &error) != REHOME_REFUSED_NONE) {
    rehome_block_unmap(&agent->takeover.block);
    rehome_connection_refuse(agent, &error);
    return;
  }
  rehome_agent_set_migration(agent, request.migration_id);
  if (build(agent, &request, &error) != REHOME_REFUSED_NONE) {
    rehome_connection_refuse(agent, &error);
    turn_off(agent); /* half a VM is of no use to anybody */
    return;
  }
  agent->state = REHOME_STATE_PREPARED;
}

/* ---- ARM_TARGET, CANCEL ---- */

void rehome_takeover_arm(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  const struct rehome_agent_ops *ops = agent->ops;
  struct rehome_error error = {0};
  int result = rehome_process_check(agent->in.fds[0]);
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
  turn_off(agent);
}

/* ---- what happens meanwhile ---- */

void rehome_takeover_connection_lost(struct rehome_agent *agent) {
  struct rehome_takeover *takeover = &agent->takeover;
  if (agent->state != REHOME_STATE_TAKE_OVER) {
    turn_off(agent); /* the source cannot hand over to this process, and nobody will arm it now */
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
  takeover->source_gone = true;
  rehome_block_set_fence_proven(&takeover->block);
  /* What it announced before it died is complete and can still be taken over. */
  if (!source_is_ready(takeover)) turn_off(agent);
}

static void become_owner(struct rehome_agent *agent) {
  rehome_takeover_drop(agent);
  agent->role = REHOME_ROLE_OWNER;
  agent->state = REHOME_STATE_IDLE;
}

/* Nobody has started the source, or it died; the compare-and-swap settles it if that is wrong. */
static void give_up_waiting(struct rehome_agent *agent) {
  agent->takeover.give_up_at_ns = REHOME_NEVER;
  if (!source_is_ready(&agent->takeover)) turn_off(agent);
}

void rehome_takeover_tick(struct rehome_agent *agent) {
  if (agent->state != REHOME_STATE_PREPARED && agent->state != REHOME_STATE_TAKE_OVER) return;
  pthread_mutex_lock(&agent->lock);
  bool first_run_done = agent->first_run_done;
  agent->first_run_done = false;
  pthread_mutex_unlock(&agent->lock);
  if (first_run_done) {
    become_owner(agent);
  } else if (rehome_block_verdict(&agent->takeover.block) == REHOME_VERDICT_ABORTED) {
    turn_off(agent);
  } else if (rehome_monotonic_ns() >= agent->takeover.give_up_at_ns) {
    give_up_waiting(agent);
  }
}

uint64_t rehome_takeover_deadline(const struct rehome_agent *agent) {
  return agent->state == REHOME_STATE_TAKE_OVER ? agent->takeover.give_up_at_ns : REHOME_NEVER;
}
