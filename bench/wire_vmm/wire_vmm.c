/* SPDX-License-Identifier: Apache-2.0
 *
 * A VMM that is all agent and no VM, for benchmarks of the daemon: one page of memory, an empty
 * state, a vCPU that runs nothing. It speaks the wire and takes part in the handover with the
 * agent library that every VMM uses, so the daemon does all of its work, and the VMM next to none.
 * For the simulated kernel, to which a memfd is a VM.
 *
 *     wire-vmm VM_ID AGENT_SOCKET     an owner
 *     wire-vmm --target               started by rehomed
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/agent/rehome_agent.h"

#define MEMORY_SIZE 4096
#define STATE_CAPACITY 4096
#define STATE_SIZE 64

struct vmm {
  struct rehome_agent *agent;
  pthread_mutex_t starting; /* held until `agent` is set: callbacks can come before */
  char vm_id[REHOME_ID_SIZE];
  int owner; /* the guest is here */
  int vm;
  int memory;
  int config;
  void *mapped;
};

static struct vmm self = {.starting = PTHREAD_MUTEX_INITIALIZER, .memory = -1};

static void die(const char *what) {
  perror(what);
  _exit(1);
}

static int new_memfd(const char *name, unsigned flags) {
  int fd = memfd_create(name, MFD_CLOEXEC | flags);
  if (fd < 0) die("memfd_create");
  return fd;
}

static void map_memory(int fd) {
  self.memory = fd;
  self.mapped = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (self.mapped == MAP_FAILED) die("mmap");
}

static void fill(struct rehome_vm *vm, int with_config) {
  struct stat memory;
  if (fstat(self.memory, &memory) != 0) die("fstat");
  memcpy(vm->vm_id, self.vm_id, sizeof(vm->vm_id));
  vm->vcpu_count = 1;
  vm->state_capacity = with_config ? STATE_CAPACITY : 0;
  vm->state_format = 1;
  vm->slot_count = 1;
  vm->slots[0].size = MEMORY_SIZE;
  vm->slots[0].hva = (uint64_t)(uintptr_t)self.mapped;
  vm->slots[0].device = memory.st_dev;
  vm->slots[0].inode = memory.st_ino;
  vm->layout_digest = rehome_layout_digest(vm->slots, 1);
  vm->fds[0] = (struct rehome_vm_fd){.entry = {.role = REHOME_FD_VM}, .fd = self.vm};
  vm->fds[1] = (struct rehome_vm_fd){.entry = {.role = REHOME_FD_MEMORY}, .fd = self.memory};
  vm->fds[2] = (struct rehome_vm_fd){.entry = {.role = REHOME_FD_CONFIG}, .fd = self.config};
  vm->fd_count = with_config ? 3 : 2;
}

static struct rehome_register registration(void) {
  struct rehome_register vm = {.vcpu_count = 1, .memory_bytes = MEMORY_SIZE};
  memcpy(vm.vm_id, self.vm_id, sizeof(vm.vm_id));
  return vm;
}

/* ---- source ---- */

static int describe(void *opaque, int hold, struct rehome_vm *vm, struct rehome_error *error) {
  (void)opaque, (void)hold, (void)error;
  fill(vm, 1);
  return 0;
}

static int pause_and_save(void *opaque, struct rehome_block *block, uint64_t *size,
                          struct rehome_error *error) {
  (void)opaque, (void)error;
  rehome_block_stamp(block, REHOME_PHASE_VCPUS_STOPPED);
  memset(block->state, 1, STATE_SIZE);
  *size = STATE_SIZE;
  return 0;
}

static uint64_t layout_digest(void *opaque) {
  (void)opaque;
  struct rehome_vm vm = {0};
  fill(&vm, 0);
  return vm.layout_digest;
}

static int probe_vm(void *opaque) {
  (void)opaque;
  return 0;
}

static void resume(void *opaque) { (void)opaque; }

static void released(void *opaque) {
  (void)opaque;
  _exit(0);
}

/* ---- target ---- */

static void *vcpu(void *opaque) {
  (void)opaque;
  if (rehome_target_wait(self.agent, 0) != 0 || rehome_target_claim(self.agent) != 0 ||
      rehome_target_commit(self.agent) != 0 || rehome_target_run(self.agent) != 0) {
    _exit(1);
  }
  struct rehome_register vm = registration();
  self.owner = 1;
  if (rehome_target_first_run(self.agent, &vm, NULL) != 0) _exit(1);
  return NULL;
}

static int prepare(void *opaque, uint32_t strategy, uint32_t fence_policy,
                   const struct rehome_vm *source, struct rehome_block *block,
                   struct rehome_vm *target, struct rehome_error *error) {
  (void)opaque, (void)strategy, (void)fence_policy, (void)block, (void)error;
  pthread_mutex_lock(&self.starting);
  pthread_mutex_unlock(&self.starting);
  memcpy(self.vm_id, source->vm_id, sizeof(self.vm_id));
  for (uint32_t i = 0; i < source->fd_count; i++) {
    uint32_t role = source->fds[i].entry.role;
    if (role == REHOME_FD_MEMORY) {
      map_memory(source->fds[i].fd);
    } else if (role == REHOME_FD_CONFIG) {
      self.config = source->fds[i].fd;
    } else {
      close(source->fds[i].fd);
    }
  }
  fill(target, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, vcpu, NULL) != 0) die("pthread_create");
  return 0;
}

static void cancelled(void *opaque) {
  (void)opaque;
  if (!self.owner) _exit(0);
}

static const struct rehome_agent_ops ops = {.describe = describe,
                                            .pause_and_save = pause_and_save,
                                            .layout_digest = layout_digest,
                                            .probe_vm = probe_vm,
                                            .resume = resume,
                                            .released = released,
                                            .prepare = prepare,
                                            .cancelled = cancelled};

static void start(int connection, const char *socket_path, uint32_t role) {
  const struct rehome_agent_config config = {.connection_fd = connection,
                                             .socket_path = socket_path,
                                             .role = role,
                                             .features = REHOME_FEATURES_ALL,
                                             .state_format_write = 1,
                                             .state_format_read_min = 1,
                                             .state_format_read_max = 1,
                                             .vmm_name = "wire-vmm",
                                             .vmm_version = "1"};
  pthread_mutex_lock(&self.starting);
  self.agent = rehome_agent_start(&config, &ops, NULL);
  if (self.agent == NULL) die("rehome_agent_start");
  pthread_mutex_unlock(&self.starting);
}

static int run_owner(const char *vm_id, const char *socket_path) {
  snprintf(self.vm_id, sizeof(self.vm_id), "%s", vm_id);
  int memory = new_memfd("memory", 0);
  if (ftruncate(memory, MEMORY_SIZE) != 0) die("ftruncate");
  map_memory(memory);
  self.config = new_memfd("config", MFD_ALLOW_SEALING);
  if (write(self.config, "none", 4) != 4) die("write");
  if (fcntl(self.config, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    die("F_ADD_SEALS");
  }
  self.owner = 1;
  start(-1, socket_path, REHOME_ROLE_OWNER);
  struct rehome_register vm = registration();
  return rehome_agent_register(self.agent, &vm);
}

int main(int argc, char **argv) {
  self.vm = new_memfd("vm", 0);
  const char *connection = getenv("REHOME_AGENT_FD");
  if (argc == 2 && strcmp(argv[1], "--target") == 0 && connection != NULL) {
    start(atoi(connection), getenv("REHOME_AGENT_SOCKET"), REHOME_ROLE_TARGET);
  } else if (argc != 3 || run_owner(argv[1], argv[2]) != 0) {
    fprintf(stderr, "usage: wire-vmm VM_ID AGENT_SOCKET | --target\n");
    return 2;
  }
  for (;;) pause();
}
