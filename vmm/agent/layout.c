/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/layout.h"

_Static_assert(sizeof(struct rehome_memslot) == 72, "the wire's memslot");
_Static_assert(offsetof(struct rehome_memslot, offset) == 32, "no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian");

#define FNV_OFFSET_BASIS 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

/* KVM_MEM_GUEST_MEMFD: in MAP strategies the target binds the same file as an ordinary slot. */
#define IGNORED_FLAGS (1u << 2)

static uint64_t mix(uint64_t hash, uint64_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) {
    hash ^= (value >> (8 * i)) & 0xff;
    hash *= FNV_PRIME;
  }
  return hash;
}

static uint64_t mix_slot(uint64_t hash, const struct rehome_memslot *slot) {
  hash = mix(hash, slot->address_space, 4);
  hash = mix(hash, slot->gpa, 8);
  hash = mix(hash, slot->size, 8);
  hash = mix(hash, slot->flags & ~IGNORED_FLAGS, 4);
  hash = mix(hash, slot->device, 8);
  hash = mix(hash, slot->inode, 8);
  return mix(hash, slot->offset, 8);
}

static int sorts_before(const struct rehome_memslot *a, const struct rehome_memslot *b) {
  if (a->address_space != b->address_space) return a->address_space < b->address_space;
  return a->gpa < b->gpa;
}

uint64_t rehome_layout_digest(const struct rehome_memslot *slots, size_t count) {
  if (count > REHOME_MAX_SLOTS) return 0;

  /* Insertion sort: few slots, mostly sorted already, and qsort() may allocate (the source calls
   * this while its guest is paused). */
  uint8_t order[REHOME_MAX_SLOTS];
  for (size_t i = 0; i < count; i++) {
    size_t at = i;
    for (; at > 0 && sorts_before(&slots[i], &slots[order[at - 1]]); at--)
      order[at] = order[at - 1];
    order[at] = (uint8_t)i;
  }

  uint64_t hash = FNV_OFFSET_BASIS;
  for (size_t i = 0; i < count; i++) hash = mix_slot(hash, &slots[order[i]]);
  return hash;
}
