/* SPDX-License-Identifier: Apache-2.0
 *
 * The library's thread, and the functions that any thread may call.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/agent/agent_internal.h"

/* ---- small helpers that the other files share ---- */

void rehome_agent_wake(struct rehome_agent *agent) {
  const uint64_t one = 1;
  /* It can only fail when the counter is at its maximum, and then the thread wakes anyway. */
  ssize_t written = write(agent->wake_fd, &one, sizeof(one));
  (void)written;
}

void rehome_agent_set_migration(struct rehome_agent *agent, const char *migration_id) {
  pthread_mutex_lock(&agent->lock);
  rehome_copy_text(agent->migration_id, sizeof(agent->migration_id), migration_id);
  pthread_mutex_unlock(&agent->lock);
}

uint32_t rehome_error_set(struct rehome_error *error, uint32_t refusal, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->text, sizeof(error->text), format, arguments);
  va_end(arguments);
  error->refusal = refusal;
  return refusal;
}

uint32_t rehome_error_complete(struct rehome_error *error, int result, const char *callback) {
  error->text[sizeof(error->text) - 1] = '\0';
  if (error->refusal == REHOME_REFUSED_NONE) error->refusal = REHOME_REFUSED_INTERNAL;
  if (error->text[0] == '\0') {
    snprintf(error->text, sizeof(error->text), "%s: %s", callback, strerror(-result));
  }
  return error->refusal;
}

/* ---- the thread ---- */

static void handle_lost_connection(struct rehome_agent *agent) {
  if (!agent->connection.lost) return;
  agent->connection.lost = false;
  switch (agent->state) {
    case REHOME_STATE_HELD:
    case REHOME_STATE_ARMED:
      rehome_source_connection_lost(agent);
      return;
    case REHOME_STATE_NEW:
    case REHOME_STATE_PREPARED:
    case REHOME_STATE_TAKE_OVER:
      rehome_takeover_connection_lost(agent);
      return;
    case REHOME_STATE_PAUSED:
    case REHOME_STATE_STRANDED:
      return; /* the handover block decides without the daemon */
    case REHOME_STATE_IDLE:
    case REHOME_STATE_HANDED_OVER:
    case REHOME_STATE_OFF:
      return;
  }
}

/* States that a word of the handover block ends, perhaps without a message. A PAUSED source sleeps
 * on the verdict itself. */
static bool watches_block(enum rehome_agent_state state) {
  return state == REHOME_STATE_ARMED || state == REHOME_STATE_STRANDED ||
         state == REHOME_STATE_TAKE_OVER;
}

static uint64_t next_deadline(const struct rehome_agent *agent, uint64_t now) {
  uint64_t deadline = rehome_connection_deadline(agent);
  uint64_t give_up = rehome_takeover_deadline(agent);
  if (give_up < deadline) deadline = give_up;
  uint64_t slice = now + REHOME_BLOCK_SLICE_MS * REHOME_NS_PER_MS;
  return watches_block(agent->state) && slice < deadline ? slice : deadline;
}

static int poll_timeout_ms(const struct rehome_agent *agent) {
  bool busy = agent->state == REHOME_STATE_PAUSED || agent->connection.lost || agent->stop_seen;
  if (busy) return 0;
  uint64_t now = rehome_monotonic_ns();
  uint64_t deadline = next_deadline(agent, now);
  if (deadline == REHOME_NEVER) return -1;
  if (deadline <= now) return 0;
  uint64_t ms = (deadline - now + REHOME_NS_PER_MS - 1) / REHOME_NS_PER_MS;
  return ms > REHOME_REPLY_TIMEOUT_MS ? REHOME_REPLY_TIMEOUT_MS : (int)ms;
}

static void drain_wake_fd(const struct rehome_agent *agent) {
  uint64_t count;
  ssize_t got = read(agent->wake_fd, &count, sizeof(count));
  (void)got; /* non-blocking; nothing there is fine */
}

static void wait_and_serve(struct rehome_agent *agent) {
  bool watch_source = agent->state == REHOME_STATE_TAKE_OVER && !agent->takeover.source_gone;
  bool sends = agent->connection.send_blocked;
  struct pollfd polled[] = {
      {.fd = agent->wake_fd, .events = POLLIN},
      {.fd = agent->connection.socket, .events = (short)(POLLIN | (sends ? POLLOUT : 0))},
      {.fd = watch_source ? atomic_load(&agent->takeover.source_pidfd) : -1, .events = POLLIN},
  };
  if (poll(polled, 3, poll_timeout_ms(agent)) <= 0) return;
  if (polled[0].revents != 0) drain_wake_fd(agent);
  if (polled[2].revents != 0) rehome_takeover_source_exited(agent);
  if ((polled[1].revents & ~POLLOUT) != 0) rehome_connection_readable(agent);
}

static bool is_stopping(struct rehome_agent *agent) {
  pthread_mutex_lock(&agent->lock);
  agent->stop_seen = agent->stopping;
  pthread_mutex_unlock(&agent->lock);
  /* A paused guest must not be left to itself; its deadlines end this. */
  return agent->stop_seen && agent->state != REHOME_STATE_PAUSED;
}

static void *thread_main(void *opaque) {
  struct rehome_agent *agent = opaque;
  pthread_setname_np(pthread_self(), "rehome-agent");
  while (!is_stopping(agent)) {
    rehome_source_wait(agent);
    rehome_source_tick(agent);
    rehome_takeover_tick(agent);
    handle_lost_connection(agent);
    rehome_connection_tick(agent);
    wait_and_serve(agent);
  }
  return NULL;
}

/* ---- start and stop ---- */

/* Too long or not printable: -EINVAL. */
static int copy_name(char *to, size_t size, const char *from) {
  if (from == NULL || strlen(from) >= size) return -EINVAL;
  rehome_copy_text(to, size, from);
  return rehome_is_name(to, size) ? 0 : -EINVAL;
}

static int is_seqpacket(int fd) {
  int domain = 0;
  int type = 0;
  socklen_t size = sizeof(int);
  return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
         getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && domain == AF_UNIX &&
         type == SOCK_SEQPACKET;
}

static int configure(struct rehome_agent *agent, const struct rehome_agent_config *config) {
  if (config->role != REHOME_ROLE_OWNER && config->role != REHOME_ROLE_TARGET) return -EINVAL;
  if (config->connection_fd < 0 && config->socket_path == NULL) return -EINVAL;
  if (config->connection_fd >= 0 && !is_seqpacket(config->connection_fd)) return -EINVAL;
  agent->role = config->role;
  agent->trace = config->trace;
  agent->state = config->role == REHOME_ROLE_OWNER ? REHOME_STATE_IDLE : REHOME_STATE_NEW;
  agent->hello = (struct rehome_hello){
      .version_min = REHOME_PROTOCOL_VERSION,
      .version_max = REHOME_PROTOCOL_VERSION,
      .features = config->trace == NULL ? config->features & ~REHOME_FEATURE_TRACE
                                        : config->features | REHOME_FEATURE_TRACE,
      .role = config->role,
      .state_format_write = config->state_format_write,
      .state_format_read_min = config->state_format_read_min,
      .state_format_read_max = config->state_format_read_max,
  };
  if (copy_name(agent->hello.vmm_name, sizeof(agent->hello.vmm_name), config->vmm_name) != 0 ||
      copy_name(agent->hello.vmm_version, sizeof(agent->hello.vmm_version), config->vmm_version) !=
          0) {
    return -EINVAL;
  }
  if (config->socket_path == NULL) return 0;
  if (strlen(config->socket_path) >= sizeof(agent->socket_path)) return -EINVAL;
  rehome_copy_text(agent->socket_path, sizeof(agent->socket_path), config->socket_path);
  return 0;
}

/* The VMM's signals are for its vCPU threads: this one takes none. */
static int start_thread(struct rehome_agent *agent) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&agent->thread, NULL, thread_main, agent);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return -error;
}

static void free_agent(struct rehome_agent *agent) {
  if (agent->wake_fd >= 0) close(agent->wake_fd);
  pthread_mutex_destroy(&agent->lock);
  free(agent);
}

struct rehome_agent *rehome_agent_start(const struct rehome_agent_config *config,
                                        const struct rehome_agent_ops *ops, void *opaque) {
  struct rehome_agent *agent = calloc(1, sizeof(*agent));
  if (agent == NULL) return NULL;
  agent->ops = ops;
  agent->opaque = opaque;
  pthread_mutex_init(&agent->lock, NULL);
  agent->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  rehome_source_init(agent);
  rehome_takeover_init(agent);
  int result = agent->wake_fd < 0 ? -errno : configure(agent, config);
  if (result == 0) {
    rehome_connection_init(agent, config->connection_fd);
    result = start_thread(agent);
  }
  if (result != 0) {
    free_agent(agent);
    errno = -result;
    return NULL;
  }
  return agent;
}

void rehome_agent_stop(struct rehome_agent *agent) {
  if (agent == NULL) return;
  pthread_mutex_lock(&agent->lock);
  agent->stopping = true;
  pthread_mutex_unlock(&agent->lock);
  rehome_agent_wake(agent);
  pthread_join(agent->thread, NULL);
  rehome_source_drop(agent);
  rehome_takeover_drop(agent);
  rehome_connection_close(agent);
  free_agent(agent);
}

/* ---- any thread ---- */

int rehome_agent_announce(struct rehome_agent *agent, const struct rehome_register *vm,
                          bool after_first_run) {
  if (!rehome_is_vm_id(vm->vm_id) || vm->vcpu_count == 0 || vm->vcpu_count > REHOME_MAX_VCPUS ||
      !rehome_is_terminated(vm->migration_id, sizeof(vm->migration_id))) {
    return -EINVAL;
  }
  pthread_mutex_lock(&agent->lock);
  bool other = agent->has_registration && strcmp(agent->registration.vm_id, vm->vm_id) != 0;
  pthread_mutex_unlock(&agent->lock);
  if (other) return -EALREADY;
  if (after_first_run) rehome_events_push(agent, REHOME_EVENT_FIRST_RUN, "");
  pthread_mutex_lock(&agent->lock);
  agent->registration = *vm;
  if (after_first_run) {
    memcpy(agent->registration.migration_id, agent->migration_id, sizeof(agent->migration_id));
  }
  agent->has_registration = true;
  agent->registration_changed = true;
  agent->first_run_done |= after_first_run;
  pthread_mutex_unlock(&agent->lock);
  rehome_agent_wake(agent);
  return 0;
}

int rehome_agent_register(struct rehome_agent *agent, const struct rehome_register *vm) {
  return rehome_agent_announce(agent, vm, false);
}

int rehome_agent_send_event(struct rehome_agent *agent, uint32_t kind, const char *text) {
  if (kind < REHOME_EVENT_RESUMED || kind > REHOME_EVENT_VM_DEAD) return -EINVAL;
  rehome_events_push(agent, kind, text);
  rehome_agent_wake(agent);
  return 0;
}
