/* SPDX-License-Identifier: Apache-2.0
 *
 * What the built-in guest and the host agree on: where things are in guest-physical memory, and the
 * structures in which the guest reports. Fixed layout, little-endian, C11 and C++20. The guest is
 * freestanding, so nothing but <stdint.h> and rounds.h is used here.
 *
 * The first 2 MiB belong to the loader (addresses below, all identity-mapped); the rest of RAM is
 * split evenly among the vCPUs, see step.h. Fresh memory must read as zeroes.
 */
#ifndef REHOME_VMM_REFERENCE_GUEST_GUEST_ABI_H_
#define REHOME_VMM_REFERENCE_GUEST_GUEST_ABI_H_

#include <stdint.h>

#include "vmm/reference/guest/rounds.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_GUEST_MAGIC 0x5453455547484552ull /* "REHGUEST" */
#define REHOME_GUEST_ABI_VERSION 1u
#define REHOME_GUEST_MAX_VCPUS 64u    /* as REHOME_MAX_VCPUS */
#define REHOME_GUEST_MAX_MEMORIES 16u /* as REHOME_MAX_MEMORIES */
#define REHOME_GUEST_PAGE 4096ull

/* RAM is one range of offsets; gpa == offset below the hole for PCI and the APICs, offset + 1 GiB
 * above it. */
#define REHOME_GUEST_HOLE_START 0xc0000000ull
#define REHOME_GUEST_HOLE_END 0x100000000ull

/* Guest-physical addresses. */
#define REHOME_GUEST_GDT 0x1000ull
#define REHOME_GUEST_IDT 0x2000ull
#define REHOME_GUEST_BOOT_INFO 0x3000ull
#define REHOME_GUEST_TSS 0x4000ull /* + vcpu * 256 */
#define REHOME_GUEST_TSS_STRIDE 256ull
/* Of a TSS: 104 bytes, then the bitmap that lets user mode use ports below 0x400, then a byte of
 * ones that ends it. */
#define REHOME_GUEST_TSS_IO_BITMAP 104u
#define REHOME_GUEST_TSS_IO_BITMAP_END (REHOME_GUEST_TSS_IO_BITMAP + 0x400u / 8u)
#define REHOME_GUEST_CODE 0x10000ull /* entry of every vCPU; rdi = its number */
#define REHOME_GUEST_CODE_MAX 0x10000ull
/* Interrupt entries: exception v at STUBS + v * 16 for v < 32, then the timer's. They run at CPL 0
 * on the TSS's rsp0 = interrupt stack top - 16, where the loader has put the mailbox's address. */
#define REHOME_GUEST_EXCEPTION_STUBS (REHOME_GUEST_CODE + 0x100)
#define REHOME_GUEST_EXCEPTION_COUNT 32u
#define REHOME_GUEST_TIMER_STUB (REHOME_GUEST_CODE + 0x300)
#define REHOME_GUEST_INTERRUPT_STACKS 0x20000ull /* + (vcpu + 1) * 1 KiB is the top */
#define REHOME_GUEST_INTERRUPT_STACK_SIZE 0x400ull
#define REHOME_GUEST_PVCLOCK 0x30000ull /* + vcpu * 64 */
#define REHOME_GUEST_PVCLOCK_STRIDE 64ull
#define REHOME_GUEST_STACKS 0x40000ull /* + (vcpu + 1) * 4 KiB is the top */
#define REHOME_GUEST_STACK_SIZE 0x1000ull
#define REHOME_GUEST_MAILBOXES 0x80000ull /* + vcpu * 4 KiB */
#define REHOME_GUEST_MAILBOX_STRIDE 0x1000ull
#define REHOME_GUEST_PAGE_TABLES 0x100000ull /* PML4, PDPT, then one page per GiB */
#define REHOME_GUEST_RESERVED 0x200000ull    /* bytes of RAM that no vCPU works on */

/* Page directories for 64 GiB of RAM and the hole fit below REHOME_GUEST_RESERVED. */
#define REHOME_GUEST_MAX_RAM (64ull << 30)

/* Selectors; TSS descriptors are loaded with the segment register and not in the GDT. */
#define REHOME_GUEST_KERNEL_CS 0x08u
#define REHOME_GUEST_USER_DS 0x2bu
#define REHOME_GUEST_USER_CS 0x33u
#define REHOME_GUEST_TSS_SELECTOR 0x18u

#define REHOME_GUEST_TIMER_VECTOR 0x40u
#define REHOME_GUEST_SERIAL_PORT 0x3f8u
/* OUT here ends the guest; the byte says why. */
#define REHOME_GUEST_EXIT_PORT 0xf4u
#define REHOME_GUEST_EXIT_POWER_OFF 0x01u
#define REHOME_GUEST_EXIT_FAULT 0x02u

/* A CPU exception in the guest is an error of kind FAULT; the first of each vCPU is kept. */
enum rehome_guest_error {
  REHOME_GUEST_ERROR_PAGE = 0,   /* a work page is not what its ledger says: lost or stale write */
  REHOME_GUEST_ERROR_FUTURE = 1, /* a work page was written in a step still to come: run twice */
  REHOME_GUEST_ERROR_REGISTER = 2, /* chain in registers and in the mailbox differ */
  REHOME_GUEST_ERROR_XMM = 3,      /* XMM7 differs from its copy */
  REHOME_GUEST_ERROR_TSC = 4,      /* TSC went backwards */
  REHOME_GUEST_ERROR_CLOCK = 5,    /* kvmclock went backwards */
  REHOME_GUEST_ERROR_TIMER = 6,    /* no LAPIC timer tick for a long time of running */
  REHOME_GUEST_ERROR_FAULT = 7,
  REHOME_GUEST_ERROR_KINDS = 8,
};

/* Written by the loader before the first instruction, read-only afterwards. 4096 bytes reserved. */
struct rehome_guest_boot_info {
  uint64_t magic;
  uint32_t abi_version;
  uint32_t vcpu_count;
  uint64_t ram_bytes;
  uint64_t seed;
  uint64_t working_set_pages; /* per vCPU; at least 1 */
  uint64_t tsc_khz;
  uint64_t heartbeat_tsc; /* TSC cycles between heartbeat lines; 0: none */
  uint64_t step_tsc;      /* TSC cycles between two steps; 0: as fast as it goes */
  uint32_t kvmclock;      /* 1: the pvclock pages are live */
  uint32_t timer;         /* 1: the LAPIC timer ticks */
  uint64_t code_size;     /* bytes at REHOME_GUEST_CODE */
  uint64_t code_digest;   /* FNV-1a over them */
  /* For tools that look at the guest from outside: the files that its RAM consists of, in order. */
  uint32_t memory_count;
  uint32_t reserved;
  uint64_t memory_bytes[REHOME_GUEST_MAX_MEMORIES];
  uint64_t memory_inode[REHOME_GUEST_MAX_MEMORIES];
};

/* One per vCPU; written by its vCPU, except the *_request words. All values 0 at start. */
struct rehome_guest_mailbox {
  uint64_t magic; /* written last when the vCPU has started */
  uint64_t vcpu;

  /* The chain after `steps` steps; `steps` is written last, so that memory read at any instant
   * holds exactly `steps` steps and possibly a prefix of the next one's writes (step.h). */
  uint64_t chain;
  uint64_t steps;
  uint64_t xmm; /* copy of XMM7 */

  uint64_t errors[REHOME_GUEST_ERROR_KINDS];
  uint64_t first_error_step;
  uint64_t first_error_kind; /* valid if any error count is not 0 */
  uint64_t first_error_gpa;  /* PAGE, FUTURE: which page; FAULT: the instruction */

  /* The longest time between two turns of the loop since the last reset, TSC cycles, and the TSC
   * values around it. The host resets by writing a new number to gap_reset_request; the vCPU
   * answers in gap_reset_done, from when on the three values are of the new period, `rounds` too.
   */
  uint64_t gap_max;
  uint64_t gap_before;
  uint64_t gap_after;
  uint64_t gap_reset_request;
  uint64_t gap_reset_done;

  uint64_t loops;
  uint64_t tsc;        /* last read */
  uint64_t clock_ns;   /* kvmclock, last read */
  uint64_t ticks;      /* LAPIC timer interrupts taken */
  uint64_t heartbeats; /* vCPU 0: lines begun */

  uint64_t fault_vector;
  uint64_t fault_code;

  /* vCPU 0 only: a new number in touch_request has it read one word of every page of RAM; then
   * touch_tsc is the cycles that took, and touch_done the number. */
  uint64_t touch_request;
  uint64_t touch_done;
  uint64_t touch_tsc;

  /* How many rounds of the loop took how long (rounds.h), since the last reset of the gaps. The
   * simulated CPU counts none. */
  uint32_t rounds[REHOME_GUEST_ROUND_BUCKETS];
};

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REHOME_VMM_REFERENCE_GUEST_GUEST_ABI_H_ */
