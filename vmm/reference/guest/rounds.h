/* SPDX-License-Identifier: Apache-2.0
 *
 * How long the rounds of the built-in guest's loop take, as a histogram: exact below 16 cycles,
 * then 16 buckets to each doubling, so that a bucket is at most 1/16 wider than its least value.
 */
#ifndef REHOME_VMM_REFERENCE_GUEST_ROUNDS_H_
#define REHOME_VMM_REFERENCE_GUEST_ROUNDS_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_GUEST_ROUND_SPLIT_BITS 4u
#define REHOME_GUEST_ROUND_SPLIT (1u << REHOME_GUEST_ROUND_SPLIT_BITS)
/* Up to 2^39 cycles, minutes; longer rounds count in the last one. */
#define REHOME_GUEST_ROUND_BUCKETS (36u * REHOME_GUEST_ROUND_SPLIT)

static inline uint32_t rehome_guest_round_bucket(uint64_t cycles) {
  if (cycles < REHOME_GUEST_ROUND_SPLIT) return (uint32_t)cycles;
  const uint32_t top = 63u - (uint32_t)__builtin_clzll(cycles);
  const uint32_t shift = top - REHOME_GUEST_ROUND_SPLIT_BITS;
  const uint32_t bucket = (shift + 1) * REHOME_GUEST_ROUND_SPLIT +
                          (uint32_t)(cycles >> shift) % REHOME_GUEST_ROUND_SPLIT;
  return bucket < REHOME_GUEST_ROUND_BUCKETS ? bucket : REHOME_GUEST_ROUND_BUCKETS - 1;
}

/* The least number of cycles that counts in this bucket. */
static inline uint64_t rehome_guest_round_least(uint32_t bucket) {
  if (bucket < REHOME_GUEST_ROUND_SPLIT) return bucket;
  const uint32_t shift = bucket / REHOME_GUEST_ROUND_SPLIT - 1;
  return (uint64_t)(REHOME_GUEST_ROUND_SPLIT + bucket % REHOME_GUEST_ROUND_SPLIT) << shift;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REHOME_VMM_REFERENCE_GUEST_ROUNDS_H_ */
