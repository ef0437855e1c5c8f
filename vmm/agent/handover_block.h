/* SPDX-License-Identifier: Apache-2.0
 *
 * The handover block: a memfd sealed against resizing, mapped by source, target and daemon. It holds
 * the verdict (who may run the guest, decided by compare-and-swap), the deadlines, a time stamp per
 * phase, and an area for the VMM's state, which the daemon never reads.
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
 *   OPEN      --source at its deadline, or daemon: cancel-------> ABORTED
 *   CLAIMED   --target: refuses before anything moved-----------> ABORTED
 *   CLAIMED   --source: target proven dead, own probe says alive> ABORTED
 *   COMMITTED --source, no kernel fence: target proven dead-----> ABORTED
 *
 * RUNNING and ABORTED are final.
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

enum rehome_verdict {
  REHOME_VERDICT_OPEN = 1, /* 0 is never a verdict: a zeroed page is no handover block */
  REHOME_VERDICT_CLAIMED = 2,
  REHOME_VERDICT_COMMITTED = 3,
  REHOME_VERDICT_RUNNING = 4,
  REHOME_VERDICT_ABORTED = 5,
};

/* CLOCK_MONOTONIC nanoseconds; 0 = not reached. One host, one clock. */
enum rehome_phase {
  REHOME_PHASE_PAUSE_REQUESTED = 0, /* source: START received, vCPUs are being kicked */
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

/* Shared memory. Only what is named _word is used with atomics and futexes (shared, not private). */
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
  REHOME_CACHE_LINE uint32_t source_ready_word; /* 0, then 1 when the state area is complete */
  REHOME_CACHE_LINE uint32_t fence_word;        /* 0, then 1 when the source is proven stopped */
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

/* Creates the memfd (close-on-exec, sealed: shrink, grow, seal) with verdict OPEN. Returns an fd that
 * the caller owns. */
int rehome_block_create(const struct rehome_block_params *params);

/* Maps and checks a received fd: a memfd with the seals above (without which another process could
 * make an access raise SIGBUS), magic, version, sizes. -EINVAL names anything else. Does not keep
 * `fd`. Touches every page of the mapping, so that the blackout takes no page fault on it. */
int rehome_block_map(int fd, struct rehome_block *block);
void rehome_block_unmap(struct rehome_block *block);

/* The verdict as it is now; a value outside the enum is reported as it stands. */
uint32_t rehome_block_verdict(const struct rehome_block *block);

/* Tries one edge of the table above. 0: done, waiters are woken. -EPERM: the table has no such edge.
 * -EAGAIN: the verdict was not `from`; read it again. */
int rehome_block_move_verdict(struct rehome_block *block, uint32_t from, uint32_t to);

/* Waits until the verdict differs from `seen` or CLOCK_MONOTONIC reaches deadline_ns (0: no limit).
 * 0 or -ETIMEDOUT. */
int rehome_block_wait_verdict(const struct rehome_block *block, uint32_t seen, uint64_t deadline_ns);

/* Source: the state area holds `size` bytes; wakes every waiter of wait_source_ready. */
int rehome_block_set_source_ready(struct rehome_block *block, uint64_t size);

/* Target: waits for the above. 0: ready. -ECANCELED: the verdict became ABORTED. -ETIMEDOUT. The
 * caller may pass several threads in at once: all wake. `spin_ns`: busy-wait so long before sleeping.
 */
int rehome_block_wait_source_ready(const struct rehome_block *block, uint64_t deadline_ns,
                                   uint64_t spin_ns);

/* Bytes of state announced by the source, or 0 if the number exceeds the capacity. Copy that much
 * out of block->state before parsing: the other side can still write there. */
uint64_t rehome_block_state_size(const struct rehome_block *block);

/* Fence word: set by whoever proved that no task of the source can enter user or guest mode. */
void rehome_block_set_fence_proven(struct rehome_block *block);
int rehome_block_wait_fence_proven(const struct rehome_block *block, uint64_t deadline_ns);

/* Records now for `phase` if it is still 0. */
void rehome_block_stamp(struct rehome_block *block, enum rehome_phase phase);
void rehome_block_read_phases(const struct rehome_block *block, uint64_t out[REHOME_PHASE_COUNT]);

/* CLOCK_MONOTONIC in ns. */
uint64_t rehome_monotonic_ns(void);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_HANDOVER_BLOCK_H_ */
