/* SPDX-License-Identifier: Apache-2.0
 *
 * The words of the handover block: verdict, source ready, fence, phases. Everything here is safe to
 * call from any thread of any of the processes that map the block.
 */
#include <errno.h>

#include "vmm/agent/futex.h"
#include "vmm/agent/handover_block.h"

/* Waiters of words that have no masks of their own. */
enum { kAnyBit = (int)FUTEX_BITSET_MATCH_ANY };

static uint32_t load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static int exchange(uint32_t *word, uint32_t from, uint32_t to) {
  return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* ---- verdict ---- */

int rehome_verdict_has_edge(uint32_t from, uint32_t to) {
  switch ((enum rehome_verdict)from) {
    case REHOME_VERDICT_OPEN:
      return to == REHOME_VERDICT_CLAIMED || to == REHOME_VERDICT_ABORTED;
    case REHOME_VERDICT_CLAIMED:
      return to == REHOME_VERDICT_COMMITTED || to == REHOME_VERDICT_ABORTED;
    case REHOME_VERDICT_COMMITTED:
      return to == REHOME_VERDICT_RUNNING || to == REHOME_VERDICT_ABORTED;
    case REHOME_VERDICT_RUNNING:
    case REHOME_VERDICT_ABORTED:
      return 0;
  }
  return 0; /* the word is shared memory: it can hold anything */
}

uint32_t rehome_block_verdict(const struct rehome_block *block) {
  return load(&block->shared->verdict_word);
}

static int move_quietly(struct rehome_block *block, uint32_t from, uint32_t to) {
  if (!rehome_verdict_has_edge(from, to)) return -EPERM;
  return exchange(&block->shared->verdict_word, from, to) ? 0 : -EAGAIN;
}

int rehome_block_move_verdict(struct rehome_block *block, uint32_t from, uint32_t to) {
  struct rehome_block_header *shared = block->shared;
  int result = move_quietly(block, from, to);
  if (result != 0) return result;
  rehome_futex_wake(&shared->verdict_word, REHOME_VERDICT_BIT(to));
  if (to == REHOME_VERDICT_ABORTED) {
    /* The target's threads sleep on the other word; its value must change, or one that is about to
     * sleep would miss the wake-up. */
    exchange(&shared->source_ready_word, REHOME_SOURCE_NOT_READY, REHOME_SOURCE_NEVER_READY);
    rehome_futex_wake(&shared->source_ready_word, (uint32_t)kAnyBit);
  }
  return 0;
}

int rehome_block_set_running(struct rehome_block *block) {
  return move_quietly(block, REHOME_VERDICT_COMMITTED, REHOME_VERDICT_RUNNING);
}

void rehome_block_tell_running(struct rehome_block *block) {
  rehome_futex_wake(&block->shared->verdict_word, REHOME_VERDICT_BIT(REHOME_VERDICT_RUNNING));
}

int rehome_block_wait_verdict(const struct rehome_block *block, uint32_t seen,
                              uint64_t deadline_ns) {
  const uint32_t *word = &block->shared->verdict_word;
  int result = 0;
  while (load(word) == seen) {
    if (result != 0) return result;
    result = rehome_futex_wait(word, seen, (uint32_t)kAnyBit, deadline_ns);
  }
  return 0;
}

static int in_mask(uint32_t verdict, uint32_t mask) {
  return verdict < 32 && (mask & REHOME_VERDICT_BIT(verdict)) != 0;
}

int rehome_block_wait_verdict_in(const struct rehome_block *block, uint32_t verdicts,
                                 uint64_t deadline_ns) {
  const uint32_t *word = &block->shared->verdict_word;
  int result = 0;
  for (uint32_t now = load(word); !in_mask(now, verdicts); now = load(word)) {
    if (result != 0) return result;
    result = rehome_futex_wait(word, now, verdicts, deadline_ns);
  }
  return 0;
}

/* ---- source ready ---- */

int rehome_block_set_source_ready(struct rehome_block *block, uint64_t size) {
  struct rehome_block_header *shared = block->shared;
  if (size > block->state_capacity) return -EMSGSIZE;
  __atomic_store_n(&shared->state_size, size, __ATOMIC_RELAXED);
  if (!exchange(&shared->source_ready_word, REHOME_SOURCE_NOT_READY, REHOME_SOURCE_READY)) {
    return -ECANCELED;
  }
  rehome_futex_wake(&shared->source_ready_word, (uint32_t)kAnyBit);
  return 0;
}

/* 1: wait on. Else the answer of wait_source_ready. */
static int ready_or_cancelled(const struct rehome_block_header *shared) {
  uint32_t ready = load(&shared->source_ready_word);
  if (load(&shared->verdict_word) == REHOME_VERDICT_ABORTED) return -ECANCELED;
  if (ready == REHOME_SOURCE_NOT_READY) return 1;
  return ready == REHOME_SOURCE_READY ? 0 : -ECANCELED;
}

int rehome_block_wait_source_ready(const struct rehome_block *block, uint64_t deadline_ns,
                                   uint64_t spin_ns) {
  const struct rehome_block_header *shared = block->shared;
  int answer = ready_or_cancelled(shared);
  uint64_t spin_until = spin_ns == 0 ? 0 : rehome_monotonic_ns() + spin_ns;
  while (answer == 1 && rehome_monotonic_ns() < spin_until) {
    __builtin_ia32_pause();
    answer = ready_or_cancelled(shared);
  }
  int result = 0;
  while (answer == 1 && result == 0) {
    result = rehome_futex_wait(&shared->source_ready_word, REHOME_SOURCE_NOT_READY,
                               (uint32_t)kAnyBit, deadline_ns);
    answer = ready_or_cancelled(shared);
  }
  return answer == 1 ? result : answer;
}

uint64_t rehome_block_state_size(const struct rehome_block *block) {
  uint64_t size = __atomic_load_n(&block->shared->state_size, __ATOMIC_RELAXED);
  return size <= block->state_capacity ? size : 0;
}

/* ---- fence ---- */

uint32_t rehome_block_fence_state(const struct rehome_block *block) {
  return load(&block->shared->fence_word);
}

int rehome_block_condemn(struct rehome_block *block, enum rehome_side side) {
  uint32_t *word = &block->shared->fence_word;
  uint32_t wanted = (uint32_t)side;
  if (exchange(word, REHOME_FENCE_STATE_OPEN, wanted)) {
    rehome_futex_wake(word, (uint32_t)kAnyBit);
    return 0;
  }
  uint32_t now = load(word);
  int stopped_already = side == REHOME_SIDE_SOURCE && now == REHOME_FENCE_STATE_PROVEN;
  return now == wanted || stopped_already ? 0 : -EPERM;
}

void rehome_block_set_fence_proven(struct rehome_block *block) {
  uint32_t *word = &block->shared->fence_word;
  uint32_t now = load(word);
  /* Whoever condemned the target may be about to kill it: it must not pass for one that may run. */
  while (now != REHOME_FENCE_STATE_TARGET_CONDEMNED && now != REHOME_FENCE_STATE_PROVEN) {
    if (exchange(word, now, REHOME_FENCE_STATE_PROVEN)) {
      rehome_futex_wake(word, (uint32_t)kAnyBit);
      return;
    }
    now = load(word);
  }
}

int rehome_block_wait_fence_proven(const struct rehome_block *block, uint64_t deadline_ns) {
  const uint32_t *word = &block->shared->fence_word;
  int result = 0;
  for (uint32_t now = load(word); now != REHOME_FENCE_STATE_PROVEN; now = load(word)) {
    if (now == REHOME_FENCE_STATE_TARGET_CONDEMNED) return -ECANCELED;
    if (result != 0) return result;
    result = rehome_futex_wait(word, now, (uint32_t)kAnyBit, deadline_ns);
  }
  return 0;
}

/* ---- phases ---- */

static void record(struct rehome_block *block, enum rehome_phase phase, uint64_t ns) {
  uint64_t unset = 0;
  if ((unsigned)phase >= REHOME_PHASE_COUNT) return;
  __atomic_compare_exchange_n(&block->shared->phase_ns[phase], &unset, ns, 0, __ATOMIC_RELEASE,
                              __ATOMIC_RELAXED);
}

void rehome_block_stamp(struct rehome_block *block, enum rehome_phase phase) {
  record(block, phase, rehome_monotonic_ns());
}

void rehome_block_stamp_as(struct rehome_block *block, enum rehome_phase phase,
                           enum rehome_phase earlier) {
  uint64_t ns = 0;
  if ((unsigned)earlier < REHOME_PHASE_COUNT) {
    ns = __atomic_load_n(&block->shared->phase_ns[earlier], __ATOMIC_ACQUIRE);
  }
  record(block, phase, ns != 0 ? ns : rehome_monotonic_ns());
}

void rehome_block_read_phases(const struct rehome_block *block, uint64_t out[REHOME_PHASE_COUNT]) {
  for (int i = 0; i < REHOME_PHASE_COUNT; i++) {
    out[i] = __atomic_load_n(&block->shared->phase_ns[i], __ATOMIC_ACQUIRE);
  }
}
