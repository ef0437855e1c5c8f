/* SPDX-License-Identifier: Apache-2.0
 *
 * librehome-agent: what a VMM links so that rehomed can move its guest. C11, libc and pthread only.
 *
 * The library owns one thread and the connection to rehomed. It calls the VMM back for each step of
 * a migration; the VMM calls the rehome_target_*() functions from its own vCPU threads in the
 * blackout, so that no extra thread has to be woken there. docs/vmm-authors.md walks through it.
 *
 * Threads: callbacks run on the library's thread, one at a time. Functions of this header may be
 * called from any thread except where they say otherwise.
 *
 * What the library promises: it never blocks the guest outside a migration; when rehomed dies,
 * the connection is retried for ever (every REHOME_RECONNECT_MS) and a migration under way is
 * decided by the handover block alone; after a claim_timeout without a claim the guest is resumed.
 */
#ifndef REHOME_VMM_AGENT_REHOME_AGENT_H_
#define REHOME_VMM_AGENT_REHOME_AGENT_H_

#include <stdint.h>

#include "vmm/agent/handover_block.h"
#include "vmm/agent/layout.h"
#include "vmm/agent/protocol.h"
#include "vmm/agent/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_RECONNECT_MS 200
/* Longest time that an armed target waits for the source's state. START follows ARM_SOURCE at once,
 * and the source's own deadline ends everything after that; this bound is for the case that both
 * daemon and source went away. */
#define REHOME_TARGET_WAIT_MS 60000

struct rehome_agent;

/* Filled by the VMM in a callback that refuses: reason and a sentence for people. */
struct rehome_error {
  uint32_t refusal; /* enum rehome_refusal */
  char text[REHOME_TEXT_SIZE];
};

struct rehome_vm_fd {
  struct rehome_fd_entry entry;
  int fd;
};

/* A VM as described to the other side. In callbacks that fill one, fds stay the VMM's: the library
 * sends duplicates and closes nothing. In callbacks that receive one, the fds are the VMM's to keep
 * and close (close-on-exec is set). */
struct rehome_vm {
  char vm_id[REHOME_ID_SIZE];
  uint32_t vm_type;
  uint32_t vcpu_count;
  uint64_t state_capacity;
  uint64_t layout_digest;
  /* What the state will be written in. Of a source that can write several (feature FORMATS) the
   * newest, and the oldest, with none left out between; arm_source() is told which it is to be.
   * state_format_oldest 0: state_format and no other. */
  uint32_t state_format;
  uint32_t state_format_oldest;
  uint32_t slot_count;
  uint32_t fd_count;
  struct rehome_memslot slots[REHOME_MAX_SLOTS];
  struct rehome_vm_fd fds[REHOME_MAX_FDS];
};

/* Each returns 0, or a negative errno after filling *error. A callback that a VMM does not need may
 * be NULL; the request is then refused with REHOME_REFUSED_UNSUPPORTED. */
struct rehome_agent_ops {
  /* ---- source side ---- */
  /* Describe the VM: its VM fd, its memory fds (each used by a slot), CONFIG (a memfd sealed
   * against shrinking, growing and writing, 1 to REHOME_MAX_CONFIG bytes), devices by name. With
   * hold, keep memory slots and device fds as they are until resume(), released() or cancelled().
   * The guest runs on. At most REHOME_MAX_DESCRIBED_FDS fds. On failure nothing is held. Repeated
   * by a daemon that wants to look again. Without hold it only looks: what is held stays held, and
   * is part of the answer. With feature RECOVER it is asked so also while the guest is paused or
   * handed over (HAND_IN), and must answer without an ioctl on the VM, which may be dead. */
  int (*describe)(void *opaque, int hold, struct rehome_vm *vm, struct rehome_error *error);
  /* The block is mapped and stays so until resume(), released() or cancelled() has returned. The
   * guest runs on. `state_format` is what pause_and_save() is to write: one that describe()
   * offered, the newest if the daemon knows of no other. May be NULL in a VMM that offers only one.
   */
  int (*arm_source)(void *opaque, struct rehome_block *block, uint32_t state_format,
                    struct rehome_error *error);
  /* START has come, and the guest runs still: let devices finish what they have in hand and take
   * nothing more. The deadlines count already, so it may take a part of block->claim_timeout_ns
   * only. On failure the library aborts the verdict and calls resume(); a text that begins with
   * REHOME_TEXT_DEVICE_BUSY becomes the migration's reason. May be NULL. */
  int (*quiesce)(void *opaque, struct rehome_block *block, struct rehome_error *error);
  /* Stop every vCPU and write the state into block->state (at most block->state_capacity); *size is
   * what was used. Stamp VCPUS_STOPPED. On failure the VMM has resumed nothing: the library aborts
   * the verdict and calls resume(). Blackout path. */
  int (*pause_and_save)(void *opaque, struct rehome_block *block, uint64_t *size,
                        struct rehome_error *error);
  /* Digest of the memslots as they are now; compared with the one that was agreed on. */
  uint64_t (*layout_digest)(void *opaque);
  /* A harmless VM ioctl in this process: 0 alive, -EIO dead, any other negative errno: it could not
   * be asked. The daemon may end this process for a -EIO, as a VMM whose guest has gone, so it
   * stands for an ioctl that gave EIO and for nothing else. Only this process can tell
   * (virt/kvm/kvm_main.c: kvm->mm != current->mm gives EIO to everybody else). MOVE strategies are
   * refused without it. */
  int (*probe_vm)(void *opaque);
  /* The verdict is ABORTED: run the guest again, here. Called only when that is safe. */
  void (*resume)(void *opaque);
  /* The verdict is RUNNING: the guest is history here. Do not run it again; exit when released().
   * May be NULL, as the two below. */
  void (*handed_over)(void *opaque);
  /* Exit the process now, here or soon. */
  void (*released)(void *opaque);

  /* ---- target side ---- */
  /* Build the VM: create VM and vCPUs, LINK or map the memory, bind the slots, set CPUID, start the
   * vCPU threads up to rehome_target_wait(). No vCPU may run, no PRIVATE attribute may be set, and
   * with MOVE strategies nothing of the guest's memory may be touched. `source` is valid during the
   * call; its fds (without the block's) are now the VMM's, also if this fails. Fill `target` with
   * what was bound; its vm_id is filled in if left empty. Its fds stay open until the guest runs
   * here or the process exits: they are handed in again if the daemon asks. */
  int (*prepare)(void *opaque, uint32_t strategy, uint32_t fence_policy,
                 const struct rehome_vm *source, struct rehome_block *block,
                 struct rehome_vm *target, struct rehome_error *error);
  /* From now on the source may hand over. May be NULL. */
  int (*arm_target)(void *opaque, struct rehome_block *block, struct rehome_error *error);
  /* The migration is off (target: exit; source: drop what describe() held, the guest runs on). */
  void (*cancelled)(void *opaque);
};

struct rehome_agent_config {
  /* An inherited connection (REHOME_AGENT_FD), which the library takes over, or -1. */
  int connection_fd;
  /* Where to connect if there is no inherited connection, and whenever the connection is lost
   * (REHOME_AGENT_SOCKET). NULL: only the inherited one. */
  const char *socket_path;
  uint32_t role; /* enum rehome_role */
  /* REHOME_FEATURE_TRACE follows from `trace`, whatever is said here. REHOME_FEATURE_EXACT: a
   * promise of probe_vm(), above. */
  uint32_t features;
  /* The newest that it writes, for display, and what it reads. */
  uint32_t state_format_write, state_format_read_min, state_format_read_max;
  const char *vmm_name; /* both: printable ASCII, not empty, below REHOME_ID_SIZE bytes */
  const char *vmm_version;
  /* Where the VMM notes its ioctls (trace.h); outlives the agent. NULL: it does not. */
  struct rehome_trace *trace;
};

/* Starts the thread. NULL and errno on failure (EINVAL: neither fd nor path, an unknown role, a
 * string too long, no SOCK_SEQPACKET socket); connection_fd is then still the caller's. `ops` and
 * `opaque` must outlive the agent; strings are copied. The connection is made in the background. */
struct rehome_agent *rehome_agent_start(const struct rehome_agent_config *config,
                                        const struct rehome_agent_ops *ops, void *opaque);

/* Stops the thread, closes the connection and frees the agent. A handover that is under way is
 * decided first, which its deadlines bound. Not from a callback, and not while a thread is in a
 * function of this header. */
void rehome_agent_stop(struct rehome_agent *agent);

/* Announces a VM that this process runs; repeated after each reconnect, and every second while it
 * is refused. Call it again for the same vm_id to announce a change; -EALREADY for another one.
 * `migration_id` may be "". -EINVAL: a bad id or vCPU count. */
int rehome_agent_register(struct rehome_agent *agent, const struct rehome_register *vm);

/* Queues an event; sent at once if connected, else after the reconnect. The queue holds 16: when it
 * is full, the oldest goes. `text` may be NULL. -EINVAL: unknown kind. */
int rehome_agent_send_event(struct rehome_agent *agent, uint32_t kind, const char *text);

/* ---- the target's blackout, from its vCPU threads ----
 * Every vCPU thread calls wait(); thread 0 goes on alone with claim, may_move, MOVE, commit, while
 * the others restore; when all have restored, thread 0 calls run(); then all enter KVM_RUN.
 *
 * -ECANCELED from any of them means: the source keeps the guest, or takes it back on proof that
 * this process has exited; do not run it, leave, exit. The library calls cancelled() too: the
 * verdict is ABORTED, or the fence word condemns the target. -EINVAL: not in a migration. */

/* Blocks until the source's state is complete. 0, -ECANCELED, or -ETIMEDOUT after
 * REHOME_TARGET_WAIT_MS (exit). `spin_ns`: busy-wait so long before sleeping. */
int rehome_target_wait(struct rehome_agent *agent, uint64_t spin_ns);
/* OPEN -> CLAIMED. -ECANCELED: too late. Stamps CLAIMED, and MOVED where the strategy has no MOVE.
 */
int rehome_target_claim(struct rehome_agent *agent);
/* Right before MOVE, and only there: 0, or -ECANCELED when the target has been condemned meanwhile.
 * MOVE would then kill the source's VM, and the guest with it. */
int rehome_target_may_move(struct rehome_agent *agent);
/* CLAIMED -> COMMITTED. With MOVE: after it succeeded, before restoring. Without: after restoring.
 */
int rehome_target_commit(struct rehome_agent *agent);
/* CLAIMED -> ABORTED: nothing was moved and the guest never ran here; `text` is reported. With a
 * dead source the verdict stays, so that a rescue can go on. The library calls cancelled(): exit.
 */
int rehome_target_refuse(struct rehome_agent *agent, const char *text);
/* COMMITTED -> RUNNING, after the fence if the policy wants it. The caller enters KVM_RUN next.
 * With FENCE_BEFORE_RESUME it waits for the daemon's proof half of the resolve timeout, then kills
 * the source itself and waits for the proof of that. -ETIMEDOUT: no proof that the source stopped;
 * the caller must exit without running the guest, and the source resumes on proof of that exit. */
int rehome_target_run(struct rehome_agent *agent);
/* After the first KVM_RUN came back: FIRST_RUN, or FIRST_RUN_FAILED with `failure` not NULL.
 * Without a failure the agent becomes an OWNER and registers `vm` (an empty migration_id is filled
 * in), and the handover block is unmapped: no thread may use it any more. */
int rehome_target_first_run(struct rehome_agent *agent, const struct rehome_register *vm,
                            const char *failure);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_REHOME_AGENT_H_ */
