/* SPDX-License-Identifier: Apache-2.0
 *
 * What the library's files share. One thread (agent.c) owns everything that is neither atomic nor
 * under `lock`; the functions of rehome_agent.h that other threads call touch only those.
 */
#ifndef REHOME_VMM_AGENT_AGENT_INTERNAL_H_
#define REHOME_VMM_AGENT_AGENT_INTERNAL_H_

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "vmm/agent/agent_state.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/agent/trace.h"
#include "vmm/agent/wire.h"

#define REHOME_NS_PER_MS 1000000ull
#define REHOME_NEVER UINT64_MAX

/* ms; HELLO and REGISTER are answered from the daemon's memory, so a daemon that takes this long is
 * stuck, and a new connection is the better bet. */
#define REHOME_REPLY_TIMEOUT_MS 5000
/* ms between two tries of a REGISTER that was refused (the id of a VM that is still going away). */
#define REHOME_REGISTER_RETRY_MS 1000
/* Messages handled before the thread looks at its other duties again. */
#define REHOME_MAX_MESSAGES_PER_TURN 16
/* Events that wait for a connection. A migration makes at most three; when the queue is full the
 * oldest goes, because the newest says how things are. */
#define REHOME_MAX_QUEUED_EVENTS 16
/* ms, beyond the claim timeout, that an armed target without a daemon waits for the source's state:
 * a START that was sent just before the daemon died is carried out well within it. */
#define REHOME_START_MARGIN_MS 1000
/* ms between looks at socket and pidfd while the thread sleeps on the verdict. Longer than a normal
 * blackout, which ends with one wake-up; short beside the time a process takes to die. */
#define REHOME_VERDICT_SLICE_MS 2
/* ms between looks at the handover block while the thread sleeps in poll(), which no word of the
 * block ends: what waits for it is a process that has no hurry any more. */
#define REHOME_BLOCK_SLICE_MS 100
/* ms that a process may take to die of SIGKILL. Its tasks stop within milliseconds; only an
 * uninterruptible wait in the kernel takes longer. There is no safe way on without the proof. */
#define REHOME_EXIT_TIMEOUT_MS 120000
/* ms between looks for that proof. */
#define REHOME_EXIT_SLICE_MS 1

enum rehome_connection_state {
  REHOME_CONNECTION_DOWN,  /* connect again at connect_at_ns */
  REHOME_CONNECTION_HELLO, /* HELLO sent */
  REHOME_CONNECTION_UP,
};

struct rehome_connection {
  enum rehome_connection_state state;
  int socket;
  uint64_t connect_at_ns;
  uint64_t seq; /* of our next request */
  uint64_t hello_seq;
  uint64_t register_seq;   /* 0: none under way */
  uint64_t reply_by_ns;    /* of HELLO or REGISTER; REHOME_NEVER: nothing awaited */
  uint64_t register_at_ns; /* next try; REHOME_NEVER: nothing to say */
  uint32_t features;       /* agreed on */
  uint32_t greeted_as;     /* the role that HELLO named on this connection */
  bool lost;               /* an open connection ended: the states have to hear of it */
  bool send_blocked;       /* an event did not fit: wait for POLLOUT */
};

/* The source's half of a migration. */
struct rehome_source {
  struct rehome_block block; /* mapped from ARMED on */
  int block_fd;              /* of it, for HAND_IN; -1: none */
  int target_pidfd;          /* -1: none */
  uint64_t layout_digest;
  uint32_t state_format; /* that ARM_SOURCE named */
  uint64_t started_ns;   /* when START came */
  uint64_t claim_deadline_ns;
  uint64_t resolve_deadline_ns;        /* 0: no claim seen yet */
  uint64_t exit_deadline_ns;           /* 0: the target has not been killed by us */
  bool abort_wanted;                   /* the pause failed: do not wait for the deadline */
  char why[REHOME_TEXT_SIZE];          /* for the RESUMED event */
  char stranded_why[REHOME_TEXT_SIZE]; /* for the VM_DEAD event */
};

/* State formats that the last DESCRIBE with hold offered. */
struct rehome_offer {
  uint32_t oldest, newest;
};

/* The target's half. The atomics are what its vCPU threads share with the library's thread. */
struct rehome_takeover {
  struct rehome_block block;
  int block_fd;                          /* of it, for HAND_IN; -1: none */
  _Atomic(struct rehome_block *) mapped; /* &block from PREPARE to the first run, else NULL */
  atomic_int source_pidfd;               /* -1: none */
  _Atomic uint64_t claimed_ns;
  atomic_bool refused;    /* by the VMM, after its claim */
  bool source_gone;       /* its exit has been seen: do not poll for it again */
  uint64_t give_up_at_ns; /* REHOME_NEVER while the daemon is there */
};

struct rehome_agent {
  /* constant after start */
  const struct rehome_agent_ops *ops;
  void *opaque;
  struct rehome_hello hello;                                     /* role: see `role` */
  char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": never reconnect */
  struct rehome_trace *trace;                                    /* the VMM's; NULL: it has none */
  int wake_fd;
  pthread_t thread;

  pthread_mutex_t lock; /* the next group */
  bool stopping;
  bool has_registration;
  bool registration_changed;
  bool first_run_done; /* a target that ran the guest: become an owner */
  struct rehome_register registration;
  char migration_id[REHOME_ID_SIZE]; /* under way, or the last one */
  struct rehome_event events[REHOME_MAX_QUEUED_EVENTS];
  unsigned first_event, event_count;

  /* the thread's own */
  bool stop_seen; /* the wake-up for it has been used up: do not sleep again */
  uint32_t role;
  enum rehome_agent_state state;
  struct rehome_connection connection;
  struct rehome_source source;
  struct rehome_offer offer; /* outlives an ARM_SOURCE that was refused */
  struct rehome_takeover takeover;
  struct rehome_packet in, out;
  struct rehome_vm vm;       /* scratch: too large for a stack */
  struct rehome_vm prepared; /* a target's answer to PREPARE; its fds are the VMM's */
};

/* After MOVE the source's VM is dead, whatever the verdict says. */
static inline bool rehome_moves_context(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

/* ---- agent.c ---- */
/* From here on the VMM's ioctls are the hop's; nothing without a trace area. */
static inline void rehome_agent_trace_start(struct rehome_agent *agent) {
  if (agent->trace != NULL) rehome_trace_start(agent->trace);
}
static inline void rehome_agent_trace_close(struct rehome_agent *agent) {
  if (agent->trace != NULL) rehome_trace_close(agent->trace);
}
void rehome_agent_wake(struct rehome_agent *agent);
void rehome_agent_set_migration(struct rehome_agent *agent, const char *migration_id);
/* rehome_agent_register(). After the first run it also queues FIRST_RUN and makes the agent an
 * owner, all before the thread can send the registration: whoever reads that may send DESCRIBE at
 * once. */
int rehome_agent_announce(struct rehome_agent *agent, const struct rehome_register *vm,
                          bool after_first_run);
/* Sets the text, printf-like, and the refusal; returns `refusal`. */
uint32_t rehome_error_set(struct rehome_error *error, uint32_t refusal, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* For a callback that returned `result` != 0: fills in what it left out. */
uint32_t rehome_error_complete(struct rehome_error *error, int result, const char *callback);

/* ---- connection.c ---- */
void rehome_connection_init(struct rehome_agent *agent, int inherited_fd);
void rehome_connection_close(struct rehome_agent *agent);
/* What is due by the clock, and what waits to be sent. */
void rehome_connection_tick(struct rehome_agent *agent);
void rehome_connection_readable(struct rehome_agent *agent);
uint64_t rehome_connection_deadline(const struct rehome_agent *agent);
/* Sends what is queued: before a callback that may end the process. */
void rehome_connection_flush(struct rehome_agent *agent);
/* Answers the request in agent->in. `payload` may be NULL. A peer that sends requests and does not
 * read the answers loses the connection. */
void rehome_connection_reply(struct rehome_agent *agent, const void *payload, size_t size);
void rehome_connection_refuse(struct rehome_agent *agent, const struct rehome_error *error);
/* Answers the request in agent->in with a description. A refusal is about the fds (EBADF,
 * ETOOMANYREFS), and the request is still to be answered; a connection that ended is none. */
uint32_t rehome_connection_answer(struct rehome_agent *agent, const struct rehome_vm *vm,
                                  struct rehome_error *error);

/* ---- events.c ---- */
void rehome_events_push(struct rehome_agent *agent, uint32_t kind, const char *text);
/* Copies the oldest; false: none. */
bool rehome_events_peek(struct rehome_agent *agent, struct rehome_event *event);
void rehome_events_pop(struct rehome_agent *agent);

/* ---- request.c: a request of the daemon, in agent->in, fds included ---- */
void rehome_request_handle(struct rehome_agent *agent);

/* ---- hand_in.c ---- (REQUIRES: rehome_admit() said yes; answers the request) */
void rehome_hand_in(struct rehome_agent *agent);

/* ---- source.c ---- (REQUIRES: rehome_admit() said yes; each answers the request) */
void rehome_source_init(struct rehome_agent *agent);
void rehome_source_describe(struct rehome_agent *agent);
/* Asks the VMM what it is, into agent->vm, checked. *held: it holds now, whatever is returned. */
uint32_t rehome_source_ask(struct rehome_agent *agent, int hold, bool *held,
                           struct rehome_error *error);
void rehome_source_arm(struct rehome_agent *agent);
void rehome_source_start(struct rehome_agent *agent);
void rehome_source_cancel(struct rehome_agent *agent);
void rehome_source_release(struct rehome_agent *agent);
void rehome_source_connection_lost(struct rehome_agent *agent);
/* Forgets the migration and what it held; the guest runs on. */
void rehome_source_forget(struct rehome_agent *agent);
/* Lets go of what ARM_SOURCE brought; an OPEN verdict becomes ABORTED. */
void rehome_source_drop(struct rehome_agent *agent);
/* The migration is over and the guest runs here: back to IDLE. */
void rehome_source_idle(struct rehome_agent *agent);

/* ---- verdict.c: the paused source ---- */
/* Sleeps on the verdict, at most a slice. */
void rehome_source_wait(struct rehome_agent *agent);
void rehome_source_tick(struct rehome_agent *agent);
/* Says again, on a new connection, what the daemon that heard it may have taken with it. */
void rehome_source_say_again(struct rehome_agent *agent);

/* ---- target_prepare.c ---- */
void rehome_takeover_prepare(struct rehome_agent *agent);

/* ---- target.c ---- */
void rehome_takeover_init(struct rehome_agent *agent);
/* Tells the VMM to exit. The block stays mapped: its vCPU threads may still be looking at it. */
void rehome_takeover_turn_off(struct rehome_agent *agent);
void rehome_takeover_arm(struct rehome_agent *agent);
void rehome_takeover_cancel(struct rehome_agent *agent);
void rehome_takeover_connection_lost(struct rehome_agent *agent);
void rehome_takeover_source_exited(struct rehome_agent *agent);
void rehome_takeover_tick(struct rehome_agent *agent);
uint64_t rehome_takeover_deadline(const struct rehome_agent *agent);
void rehome_takeover_drop(struct rehome_agent *agent);

#endif /* REHOME_VMM_AGENT_AGENT_INTERNAL_H_ */
