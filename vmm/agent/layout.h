/* SPDX-License-Identifier: Apache-2.0
 *
 * A memslot on the wire, and the digest of a list of them. C11, libc only; little-endian hosts only
 * (x86-64 is the only architecture that KVM can MOVE on).
 */
#ifndef REHOME_VMM_AGENT_LAYOUT_H_
#define REHOME_VMM_AGENT_LAYOUT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One memslot. Fixed layout, 72 bytes, no padding. */
struct rehome_memslot {
  uint32_t slot;          /* KVM slot number without the address space */
  uint32_t address_space; /* 0 normal, 1 SMM */
  uint64_t gpa;           /* bytes, page-aligned */
  uint64_t size;          /* bytes, page-aligned, not 0 */
  uint32_t flags;         /* KVM_MEM_* */
  uint32_t memory_index;  /* which fd with role MEMORY backs it */
  uint64_t offset;        /* bytes into that file */
  uint64_t hva;           /* where this VMM maps it; 0 if it does not */
  uint64_t device;        /* st_dev of the file behind it */
  uint64_t inode;         /* st_ino of the file behind it */
  uint64_t reserved;      /* 0 */
};

/* FNV-1a, 64 bit, over for each slot in order of (address_space, gpa): address_space (4 bytes), gpa
 * (8), size (8), flags without KVM_MEM_GUEST_MEMFD (4), device (8), inode (8), offset (8), each
 * little-endian. `slots` need not be sorted; the function sorts an index, not the array. Returns 0
 * for count > REHOME_MAX_SLOTS. It detects change; it is no defence against a liar. */
uint64_t rehome_layout_digest(const struct rehome_memslot *slots, size_t count);

#define REHOME_MAX_SLOTS 128 /* as kMaxMemslots */

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_LAYOUT_H_ */
