/* SPDX-License-Identifier: Apache-2.0
 *
 * What QEMU moves in the comparison with its same-host migration: a guest that does about what the
 * built-in guest of the reference VMM does (vmm/reference/guest). It writes to every page of its
 * memory, then each vCPU beats and writes to its working set without pause, and the first one goes
 * round all of memory and counts pages that are not what they were.
 *
 * 32-bit protected mode without paging, all it needs: so it can have no memory beyond 2 GiB.
 */
#include "bench/page/peer/peer_guest.h"

#include <stdint.h>

#define PAGE 4096u
/* The image, its stacks and what lies below are left alone. */
#define FIRST_PAGE (0x200000u / PAGE)
/* As the built-in guest's default, for each vCPU. */
#define WORKING_SET_PAGES 1024u
/* Any odd number: pages get contents that are easy to tell apart. */
#define PATTERN 2654435761u

/* QEMU's fw_cfg device (docs/specs/fw_cfg.rst). */
#define FW_CFG_SELECTOR 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_RAM_SIZE 0x03
#define FW_CFG_NB_CPUS 0x05

#define LAPIC_ICR ((volatile uint32_t *)0xfee00300u)
#define ICR_INIT_OTHERS 0x000c4500u
#define ICR_STARTUP_OTHERS 0x000c4600u
/* Turns to wait between two start-up IPIs; one that was lost is sent again. */
#define STARTUP_TURNS 100000u

/* All of it 32 bits, so that each word is read whole. Fresh memory reads as zeroes. */
struct peer_report {
  uint32_t magic; /* written once memory is touched and every vCPU beats */
  uint32_t vcpus;
  uint32_t pages;  /* of memory, those below FIRST_PAGE included */
  uint32_t errors; /* pages that had lost their contents */
  uint32_t sweeps; /* how often all pages were looked at */
  uint32_t beats[PEER_MAX_VCPUS];
};

#define REPORT ((volatile struct peer_report *)PEER_REPORT)

extern const uint8_t trampoline[], trampoline_end[];
void peer_main(uint32_t vcpu);

static inline void out16(uint16_t port, uint16_t value) {
  __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

static inline void relax(void) { __asm__ volatile("pause" ::: "memory"); }

/* The first 32 bits of an item. */
static uint32_t fw_cfg(uint16_t item) {
  uint32_t value = 0;
  out16(FW_CFG_SELECTOR, item);
  for (uint32_t i = 0; i < 4; i++) value |= (uint32_t)in8(FW_CFG_DATA) << (8 * i);
  return value;
}

static volatile uint32_t *page_words(uint32_t page) { return (volatile uint32_t *)(page * PAGE); }

static void touch_all(uint32_t pages) {
  for (uint32_t page = FIRST_PAGE; page < pages; page++) page_words(page)[0] = page * PATTERN;
}

static void start_others(uint32_t vcpus) {
  volatile uint8_t *to = (volatile uint8_t *)PEER_TRAMPOLINE;
  for (uint32_t i = 0; i < (uint32_t)(trampoline_end - trampoline); i++) to[i] = trampoline[i];
  *LAPIC_ICR = ICR_INIT_OTHERS;
  for (uint32_t vcpu = 1; vcpu < vcpus;) {
    *LAPIC_ICR = ICR_STARTUP_OTHERS | PEER_TRAMPOLINE / PAGE;
    for (uint32_t turn = 0; turn < STARTUP_TURNS; turn++) relax();
    while (vcpu < vcpus && REPORT->beats[vcpu] != 0) vcpu++;
  }
}

/* Word 1 of one page of this vCPU's working set. The sets lie side by side as far as memory goes.
 */
static void write_one(uint32_t vcpu, uint32_t turn) {
  const uint32_t page = FIRST_PAGE + vcpu * WORKING_SET_PAGES + turn % WORKING_SET_PAGES;
  if (page < REPORT->pages) page_words(page)[1] = turn;
}

void peer_main(uint32_t vcpu) {
  uint32_t look_at = FIRST_PAGE;
  if (vcpu == 0) {
    const uint32_t vcpus = fw_cfg(FW_CFG_NB_CPUS) & 0xffffu;
    REPORT->pages = fw_cfg(FW_CFG_RAM_SIZE) / PAGE;
    REPORT->vcpus = vcpus;
    touch_all(REPORT->pages);
    if (vcpus > 1) start_others(vcpus);
    REPORT->magic = PEER_MAGIC;
  }
  for (uint32_t turn = 1;; turn++) {
    REPORT->beats[vcpu] = turn;
    write_one(vcpu, turn);
    if (vcpu != 0) continue;
    if (page_words(look_at)[0] != look_at * PATTERN) REPORT->errors++;
    if (++look_at == REPORT->pages) {
      look_at = FIRST_PAGE;
      REPORT->sweeps++;
    }
  }
}
