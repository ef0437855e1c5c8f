/* SPDX-License-Identifier: Apache-2.0
 *
 * PREPARE: what a target is asked to take over, checked, and the VM that it builds for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/description.h"

#define PREPARE_ROLES (REHOME_DESCRIBED_ROLES | REHOME_ROLE_BIT(REHOME_FD_BLOCK))
/* What a target says it has bound. */
#define PREPARED_ROLES (REHOME_ROLE_BIT(REHOME_FD_VM) | REHOME_ROLE_BIT(REHOME_FD_MEMORY))

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
  if (has_role(source, REHOME_FD_VM) != rehome_moves_context(request->strategy)) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED,
                            "the VM fd travels with MOVE strategies and no others");
  }
  if (!config_is_sound(source)) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED,
                            "CONFIG is no sealed memfd of 1 to %u bytes", REHOME_MAX_CONFIG);
  }
  if (source->state_format_oldest != 0) {
    return rehome_error_set(error, REHOME_REFUSED_MALFORMED, "PREPARE names one state format");
  }
  uint32_t wanted = features_of(request->strategy);
  if (has_role(source, REHOME_FD_NAMED)) wanted |= REHOME_FEATURE_NAMED_FDS;
  if ((wanted & ~agent->connection.features) != 0) {
    return rehome_error_set(error, REHOME_REFUSED_UNSUPPORTED, "needs features 0x%x, agreed 0x%x",
                            wanted, agent->connection.features);
  }
  if (source->state_format < agent->hello.state_format_read_min ||
      source->state_format > agent->hello.state_format_read_max) {
    return rehome_error_set(error, REHOME_REFUSED_STATE_FORMAT,
                            "state format %u, %s %s reads %u to %u", source->state_format,
                            agent->hello.vmm_name, agent->hello.vmm_version,
                            agent->hello.state_format_read_min, agent->hello.state_format_read_max);
  }
  return REHOME_REFUSED_NONE;
}

/* The packet does not own `fd` any more. */
static void take_out(struct rehome_agent *agent, int fd) {
  for (uint32_t i = 0; i < agent->in.header.fd_count; i++) {
    if (agent->in.fds[i] == fd) rehome_packet_take_fd(&agent->in, i);
  }
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
  uint32_t refusal = check_terms(agent, request, error);
  if (refusal != REHOME_REFUSED_NONE) return refusal;
  take_out(agent, block_fd);
  agent->takeover.block_fd = block_fd;
  return REHOME_REFUSED_NONE;
}

/* The VMM owns the source's fds from here on, whatever it answers. */
static void give_fds_away(struct rehome_agent *agent) {
  for (uint32_t i = 0; i < agent->vm.fd_count; i++) take_out(agent, agent->vm.fds[i].fd);
}

static uint32_t build(struct rehome_agent *agent, const struct rehome_prepare *request,
                      struct rehome_error *error) {
  struct rehome_vm *target = &agent->prepared;
  atomic_store(&agent->takeover.mapped, &agent->takeover.block);
  give_fds_away(agent);
  memset(target, 0, sizeof(*target));
  int result = agent->ops->prepare(agent->opaque, request->strategy, request->fence_policy,
                                   &agent->vm, &agent->takeover.block, target, error);
  if (result != 0) return rehome_error_complete(error, result, "prepare");
  target->state_format_oldest = 0; /* a source's to offer */
  if (target->vm_id[0] == '\0') memcpy(target->vm_id, agent->vm.vm_id, sizeof(target->vm_id));
  const char *defect = rehome_vm_defect(target, PREPARED_ROLES);
  if (defect == NULL) defect = rehome_vm_lacks(target);
  if (defect != NULL) {
    return rehome_error_set(error, REHOME_REFUSED_INTERNAL, "the VMM described itself with: %s",
                            defect);
  }
  return rehome_connection_answer(agent, target, error);
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
    rehome_takeover_turn_off(agent); /* half a VM is of no use to anybody */
    return;
  }
  agent->state = REHOME_STATE_PREPARED;
}
