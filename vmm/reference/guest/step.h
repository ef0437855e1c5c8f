/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of a vCPU's hash chain: the work of the built-in guest. The same code runs in the guest,
 * in the simulated CPU and in the host's check, over whatever memory the caller's two functions
 * reach. Everything follows from (seed, vCPU, working set, number of steps), so the host can
 * recompute chain and memory.
 *
 * Step n (from 1) with chain value h:
 *   page   := pick(h) among the vCPU's work pages
 *   word   := {value, step of its last write} at that page's own offset
 *   ledger := the check word of that page, which lives in another page
 *   the three must belong together, and the last write must be of an earlier step
 *   h'     := mix(mix(h, n), value);  the page and its ledger get new values from h' and n
 *
 * What goes wrong shows: a write lost or replayed in the page or in the ledger -> they disagree;
 * memory of another, longer run -> a write from the future; memory rolled back as a whole -> the
 * chain in the registers disagrees with the mailbox; and any of them -> the host's recomputation
 * differs.
 */
#ifndef REHOME_VMM_REFERENCE_GUEST_STEP_H_
#define REHOME_VMM_REFERENCE_GUEST_STEP_H_

#include <stdint.h>

#include "vmm/reference/guest/guest_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Steps between two looks at XMM7. */
#define REHOME_GUEST_XMM_INTERVAL 64u

static inline uint64_t rehome_guest_mix(uint64_t a, uint64_t b) {
  /* splitmix64's finalizer: a bijection of `a` for each `b`. */
  uint64_t x = a ^ (b * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static inline uint64_t rehome_guest_gpa(uint64_t ram_offset) {
  return ram_offset < REHOME_GUEST_HOLE_START
             ? ram_offset
             : ram_offset + (REHOME_GUEST_HOLE_END - REHOME_GUEST_HOLE_START);
}

/* The part of RAM that one vCPU works on; offsets into RAM. */
struct rehome_guest_area {
  uint64_t ledger_offset;
  uint64_t pages_offset;
  uint64_t stride_bytes; /* from one work page to the next */
  uint64_t page_count;
};

/* The largest working set per vCPU, in pages; 0 if RAM is too small for that many vCPUs. */
static inline uint64_t rehome_guest_max_working_set(uint64_t ram_bytes, uint32_t vcpu_count) {
  if (vcpu_count == 0 || ram_bytes <= REHOME_GUEST_RESERVED) return 0;
  uint64_t pages = (ram_bytes - REHOME_GUEST_RESERVED) / vcpu_count / REHOME_GUEST_PAGE;
  /* One ledger page serves 512 work pages. */
  return pages / 513 * 512 + (pages % 513 > 1 ? pages % 513 - 1 : 0);
}

/* REQUIRES: 1 <= page_count <= rehome_guest_max_working_set(), vcpu < vcpu_count. */
static inline struct rehome_guest_area rehome_guest_area_of(uint64_t ram_bytes, uint32_t vcpu_count,
                                                            uint32_t vcpu, uint64_t page_count) {
  const uint64_t pages = (ram_bytes - REHOME_GUEST_RESERVED) / vcpu_count / REHOME_GUEST_PAGE;
  const uint64_t ledger_pages = (page_count + 511) / 512;
  struct rehome_guest_area area;
  area.ledger_offset = REHOME_GUEST_RESERVED + vcpu * pages * REHOME_GUEST_PAGE;
  area.pages_offset = area.ledger_offset + ledger_pages * REHOME_GUEST_PAGE;
  area.stride_bytes = (pages - ledger_pages) / page_count * REHOME_GUEST_PAGE;
  area.page_count = page_count;
  return area;
}

/* RAM offset of the {value, step} pair of a work page: somewhere in it, 16-byte aligned. */
static inline uint64_t rehome_guest_word_offset(const struct rehome_guest_area *area,
                                                uint64_t page) {
  return area->pages_offset + page * area->stride_bytes + (rehome_guest_mix(page, 3) & 0xff) * 16;
}

static inline uint64_t rehome_guest_ledger_offset(const struct rehome_guest_area *area,
                                                  uint64_t page) {
  return area->ledger_offset + page * 8;
}

static inline uint64_t rehome_guest_pick(const struct rehome_guest_area *area, uint64_t chain) {
  return (uint64_t)(((unsigned __int128)chain * area->page_count) >> 64);
}

static inline uint64_t rehome_guest_first_chain(uint64_t seed, uint32_t vcpu) {
  return rehome_guest_mix(seed, 0x100000000ull + vcpu);
}

/* The chain after step n, which found `value`. */
static inline uint64_t rehome_guest_next_chain(uint64_t chain, uint64_t n, uint64_t value) {
  return rehome_guest_mix(rehome_guest_mix(chain, n), value);
}

static inline uint64_t rehome_guest_new_value(uint64_t chain_after, uint64_t page) {
  return rehome_guest_mix(chain_after, ~page);
}

/* A page that was never written is zero, and so is its ledger. */
static inline uint64_t rehome_guest_ledger_of(uint64_t value, uint64_t step, uint64_t page) {
  return step == 0 && value == 0 ? 0 : rehome_guest_mix(value, rehome_guest_mix(step, page)) | 1;
}

/* What XMM7 holds after `steps` steps, a multiple of REHOME_GUEST_XMM_INTERVAL. */
static inline uint64_t rehome_guest_xmm_of(uint64_t chain) {
  return rehome_guest_mix(chain, 0x786d6d37ull);
}

/* Memory by guest-physical address, 8 bytes, aligned. */
typedef uint64_t (*rehome_guest_load)(void *memory, uint64_t gpa);
typedef void (*rehome_guest_store)(void *memory, uint64_t gpa, uint64_t value);

struct rehome_guest_step_result {
  uint64_t chain;
  uint32_t page_error;   /* 1: page and ledger disagree */
  uint32_t future_error; /* 1: last written in this step or later */
  uint64_t word_gpa;
};

/* Step n = steps + 1. Loads come before stores, so that a load that cannot be served leaves memory
 * as it was if the caller's store then does nothing. Stores, in this order: value, step, ledger. */
static inline __attribute__((always_inline)) struct rehome_guest_step_result rehome_guest_step(
    const struct rehome_guest_area *area, uint64_t chain, uint64_t steps, rehome_guest_load load,
    rehome_guest_store store, void *memory) {
  const uint64_t n = steps + 1;
  const uint64_t page = rehome_guest_pick(area, chain);
  const uint64_t word_gpa = rehome_guest_gpa(rehome_guest_word_offset(area, page));
  const uint64_t ledger_gpa = rehome_guest_gpa(rehome_guest_ledger_offset(area, page));
  const uint64_t value = load(memory, word_gpa);
  const uint64_t last = load(memory, word_gpa + 8);
  const uint64_t ledger = load(memory, ledger_gpa);

  struct rehome_guest_step_result result;
  result.page_error = ledger != rehome_guest_ledger_of(value, last, page);
  result.future_error = last >= n;
  result.word_gpa = word_gpa;
  result.chain = rehome_guest_next_chain(chain, n, value);

  const uint64_t new_value = rehome_guest_new_value(result.chain, page);
  store(memory, word_gpa, new_value);
  store(memory, word_gpa + 8, n);
  store(memory, ledger_gpa, rehome_guest_ledger_of(new_value, n, page));
  return result;
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REHOME_VMM_REFERENCE_GUEST_STEP_H_ */
