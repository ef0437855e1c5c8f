/* SPDX-License-Identifier: Apache-2.0
 *
 * The handover block: a memfd sealed against resizing, mapped by source, target and daemon. It
 * holds the verdict (who may run the guest, decided by compare-and-swap), the deadlines, a time
 * stamp per phase, and an area for the VMM's state, which the daemon never reads.
 *
 * Trust: all three write to it, so nobody believes it. Sizes and offsets are fixed when it is
 * created and kept privately by each side (struct rehome_block); only the atomics below are read
 * from shared memory afterwards, each once per decision. The state area is copied out before it is
 * parsed. In MOVE strategies the kernel's vm_dead stands above the verdict.
 *
 * The verdict (docs/handover.md has the argument, the table below is the code):
 *
 *   OPEN      --target-----------------------------------------> CLAIMED
 *   CLAIMED   --target: MOVE succeeded, or no MOVE and restored--> COMMITTED
 *   COMMITTED --target, just before its first KVM_RUN-----------> RUNNING
 *   OPEN      --source at its deadline or when the target died,
 *               daemon: cancel, target: told to cancel, or the
 *               source died before its state was complete-------> ABORTED
 *   CLAIMED   --target: refuses before anything moved-----------> ABORTED
 *   CLAIMED   --source: target proven dead, own probe says alive,
 *               daemon, to rescue: source proven dead-----------> ABORTED
 *   COMMITTED --source, no kernel fence: target proven dead,
 *               daemon: nobody else can end it any more---------> ABORTED
 *
 * RUNNING and ABORTED are final.
 *
 * The fence word arbitrates the other question: who may be killed while the verdict is CLAIMED or
 * COMMITTED. Without it the source (its target outlived the resolve deadline) and the target
 * (nobody fenced the source) could kill each other. Whoever wants to kill one of them must first
 * condemn it, and the target enters RUNNING only when it cannot be condemned any more.
 */
#ifndef REHOME_VMM_AGENT_HANDOVER_BLOCK_H_
#define REHOME_VMM_AGENT_HANDOVER_BLOCK_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
#define REHOME_CACHE_LINE alignas(64)
#else
#define REHOME_CACHE_LINE _Alignas(64)
#endif

#define REHOME_BLOCK_MAGIC 0x4b4c424d4f484552ull /* "REHOMBLK" */
#define REHOME_BLOCK_VERSION 1u
#define REHOME_BLOCK_HEADER_SIZE 4096u /* the state area starts here, page-aligned */
/* ns, 10 minutes: a guest is never frozen longer than twice this, whoever made the block. */
#define REHOME_BLOCK_MAX_TIMEOUT_NS 600000000000ull

enum rehome_verdict {
  REHOME_VERDICT_OPEN = 1, /* 0 is never a verdict: a zeroed page is no handover block */
  REHOME_VERDICT_CLAIMED = 2,
  REHOME_VERDICT_COMMITTED = 3,
  REHOME_VERDICT_RUNNING = 4,
  REHOME_VERDICT_ABORTED = 5,
};

#define REHOME_VERDICT_BIT(verdict) (1u << (verdict))
#define REHOME_VERDICTS_FINAL \
  (REHOME_VERDICT_BIT(REHOME_VERDICT_RUNNING) | REHOME_VERDICT_BIT(REHOME_VERDICT_ABORTED))

/* Values of source_ready_word. */
enum rehome_source_ready {
  REHOME_SOURCE_NOT_READY = 0,
  REHOME_SOURCE_READY = 1,       /* the state area is complete */
  REHOME_SOURCE_NEVER_READY = 2, /* the verdict became ABORTED first */
};

/* Values of fence_word. From OPEN to either condemnation, and from OPEN or SOURCE_CONDEMNED to
 * PROVEN: a condemned target may be about to be killed, whatever becomes of the source. */
enum rehome_fence_state {
  REHOME_FENCE_STATE_OPEN = 0,
  REHOME_FENCE_STATE_PROVEN = 1, /* no task of the source can enter user or guest mode again */
  REHOME_FENCE_STATE_SOURCE_CONDEMNED = 2, /* the source may be killed, the target may not */
  REHOME_FENCE_STATE_TARGET_CONDEMNED = 3, /* the target may be killed, and may not run */
};

enum rehome_side {
  REHOME_SIDE_SOURCE = REHOME_FENCE_STATE_SOURCE_CONDEMNED,
  REHOME_SIDE_TARGET = REHOME_FENCE_STATE_TARGET_CONDEMNED,
};

/* CLOCK_MONOTONIC nanoseconds; 0 = not reached. One host, one clock. */
enum rehome_phase {
  REHOME_PHASE_PAUSE_REQUESTED = 0, /* source: devices quiesced, vCPUs are about to be kicked */
  REHOME_PHASE_VCPUS_STOPPED = 1,   /* source: last vCPU out of KVM_RUN; the blackout begins at the
                                       first one out, which the guest measures itself */
  REHOME_PHASE_STATE_SAVED = 2,     /* source: state complete, source_ready set */
  REHOME_PHASE_CLAIMED = 3,         /* target woke and claimed */
  REHOME_PHASE_MOVED = 4,           /* target: MOVE returned (= CLAIMED without MOVE) */
  REHOME_PHASE_RESTORED = 5,        /* target: all vCPU and VM state set */
  REHOME_PHASE_FENCED = 6,          /* fence_proven seen (= RESTORED when not waited for) */
  REHOME_PHASE_RUNNING = 7,         /* target: verdict RUNNING, entering KVM_RUN */
  REHOME_PHASE_COUNT = 8,
};

/* Shared memory. Only what is named _word is used with atomics and futexes (shared, not private).
 */
struct rehome_block_header {
  uint64_t magic;
  uint32_t version;
  uint32_t header_size;
  uint64_t total_size; /* bytes of the file */
  uint64_t state_capacity;
  uint64_t claim_timeout_ns;   /* from the pause: after it an unclaimed verdict is aborted */
  uint64_t resolve_timeout_ns; /* from the claim: after it the claimant is killed and proven dead */
  uint32_t fence_policy;       /* enum rehome_fence_policy */
  uint32_t strategy;
  char migration_id[64];
  uint64_t reserved[8];
  /* one cache line each, so that waiters on one word do not pay for writes to another */
  REHOME_CACHE_LINE uint32_t verdict_word;
  REHOME_CACHE_LINE uint32_t source_ready_word; /* enum rehome_source_ready */
  REHOME_CACHE_LINE uint32_t fence_word;        /* enum rehome_fence_state */
  REHOME_CACHE_LINE uint64_t state_size;        /* bytes used; written before source_ready_word */
  uint64_t phase_ns[REHOME_PHASE_COUNT];
};

/* One side's private view. Opaque use; fields are read-only for callers. */
struct rehome_block {
  struct rehome_block_header *shared;
  uint8_t *state;
  uint64_t state_capacity; /* private copy, checked against the file's real size */
  uint64_t mapped_size;
  uint64_t claim_timeout_ns;
  uint64_t resolve_timeout_ns;
  uint32_t fence_policy;
  uint32_t strategy;
  char migration_id[64];
};

struct rehome_block_params {
  const char *migration_id;
  uint64_t state_capacity; /* at most REHOME_MAX_STATE */
  uint64_t claim_timeout_ns;
  uint64_t resolve_timeout_ns;
  uint32_t fence_policy;
  uint32_t strategy;
};

/* All functions return 0 or a negative errno unless they say otherwise. All but create, map and
 * unmap may be called from any thread at once. */

/* Creates the memfd (close-on-exec, sealed: shrink, grow, seal) with verdict OPEN. Returns an fd
 * that the caller owns. -EINVAL: an empty or overlong migration id, a capacity or timeout out of
 * bounds, an unknown strategy or policy, or REHOME_FENCE_KERNEL without MOVE (nothing would fence).
 */
int rehome_block_create(const struct rehome_block_params *params);

/* Maps and checks a received fd: a memfd with the seals above (without which another process could
 * make an access raise SIGBUS), magic, version, sizes. -EINVAL names anything else. Does not keep
 * `fd`. Touches every page of the mapping, so that the blackout takes no page fault on it. */
int rehome_block_map(int fd, struct rehome_block *block);
void rehome_block_unmap(struct rehome_block *block);

/* The verdict as it is now; a value outside the enum is reported as it stands. */
uint32_t rehome_block_verdict(const struct rehome_block *block);

/* 1 if the table above has an edge between the two, else 0. Pure. Who may take an edge is for the
 * callers to keep: the block does not know who calls. */
int rehome_verdict_has_edge(uint32_t from, uint32_t to);

/* Tries one edge of the table above. 0: done, waiters are woken. -EPERM: the table has no such
 * edge. -EAGAIN: the verdict was not `from`; read it again. */
int rehome_block_move_verdict(struct rehome_block *block, uint32_t from, uint32_t to);

/* Target: COMMITTED to RUNNING, without waking anybody: a wake-up costs the guest up to 70 us, and
 * nobody does anything for the guest because of it. Every waiter looks again by itself (a source
 * each 2 ms, the daemon each 10 ms); tell_running() spares them that, once the guest runs or
 * cannot. As rehome_block_move_verdict(). */
int rehome_block_set_running(struct rehome_block *block);
void rehome_block_tell_running(struct rehome_block *block);

/* Waits until the verdict differs from `seen` or CLOCK_MONOTONIC reaches deadline_ns (0: no limit).
 * 0 or -ETIMEDOUT. */
int rehome_block_wait_verdict(const struct rehome_block *block, uint32_t seen,
                              uint64_t deadline_ns);

/* Waits until the verdict is one of `verdicts` (REHOME_VERDICT_BIT of each); the others wake
 * nobody, so that the target's steps in the blackout cost it no wake-up. 0 or -ETIMEDOUT. */
int rehome_block_wait_verdict_in(const struct rehome_block *block, uint32_t verdicts,
                                 uint64_t deadline_ns);

/* Source: the state area holds `size` bytes; wakes every waiter of wait_source_ready. -EMSGSIZE:
 * more than the capacity. -ECANCELED: the verdict became ABORTED first. Neither announces anything.
 */
int rehome_block_set_source_ready(struct rehome_block *block, uint64_t size);

/* Target: waits for the above. 0: ready. -ECANCELED: the verdict became ABORTED. -ETIMEDOUT. The
 * caller may pass several threads in at once: all wake. `spin_ns`: busy-wait so long before
 * sleeping.
 */
int rehome_block_wait_source_ready(const struct rehome_block *block, uint64_t deadline_ns,
                                   uint64_t spin_ns);

/* Bytes of state announced by the source, or 0 if the number exceeds the capacity. Copy that much
 * out of block->state before parsing: the other side can still write there. */
uint64_t rehome_block_state_size(const struct rehome_block *block);

/* Fence word: set by whoever proved that no task of the source can enter user or guest mode. Leaves
 * a condemned target condemned. */
void rehome_block_set_fence_proven(struct rehome_block *block);
/* 0: proven. -ECANCELED: the target is condemned. -ETIMEDOUT. A condemned source is waited for. */
int rehome_block_wait_fence_proven(const struct rehome_block *block, uint64_t deadline_ns);

/* Asks for the right to kill `side` while the verdict is CLAIMED or COMMITTED. 0: granted, now or
 * before, to whoever asks; the other side is safe for good. -EPERM: the other side is condemned (or
 * the source is proven stopped, for SIDE_TARGET): do not kill. Read the verdict again before a
 * kill: it may have become final, and then its loser may be killed without asking. */
int rehome_block_condemn(struct rehome_block *block, enum rehome_side side);
uint32_t rehome_block_fence_state(const struct rehome_block *block);

/* Records now for `phase` if it is still 0. */
void rehome_block_stamp(struct rehome_block *block, enum rehome_phase phase);
/* Records for `phase`, if it is still 0, the time of `earlier` (now, if that is 0 too): a phase
 * that this strategy does not have takes no time. */
void rehome_block_stamp_as(struct rehome_block *block, enum rehome_phase phase,
                           enum rehome_phase earlier);
void rehome_block_read_phases(const struct rehome_block *block, uint64_t out[REHOME_PHASE_COUNT]);

/* CLOCK_MONOTONIC in ns. */
uint64_t rehome_monotonic_ns(void);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_HANDOVER_BLOCK_H_ */
