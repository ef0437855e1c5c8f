/* SPDX-License-Identifier: Apache-2.0
 *
 * The built-in guest: a freestanding program that runs on every vCPU at CPL 3, because a host that
 * cannot virtualise CPL 0 (PVM) still runs that natively.
 *
 * Each turn of the loop reads both clocks, measures the gap since the last turn, and takes a step
 * of the hash chain (step.h) when one is due. vCPU 0 also speaks on the serial port, one character
 * per turn, so that printing makes no gap of its own.
 */
#include <stddef.h>
#include <stdint.h>

#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest/step.h"

/* Offsets that entry.S uses. */
_Static_assert(offsetof(struct rehome_guest_mailbox, errors[REHOME_GUEST_ERROR_FAULT]) == 96, "");
_Static_assert(offsetof(struct rehome_guest_mailbox, first_error_kind) == 112, "");
_Static_assert(offsetof(struct rehome_guest_mailbox, first_error_gpa) == 120, "");
_Static_assert(offsetof(struct rehome_guest_mailbox, ticks) == 192, "");
_Static_assert(offsetof(struct rehome_guest_mailbox, fault_vector) == 208, "");
_Static_assert(offsetof(struct rehome_guest_mailbox, fault_code) == 216, "");
_Static_assert(sizeof(struct rehome_guest_mailbox) <= REHOME_GUEST_MAILBOX_STRIDE, "");
_Static_assert(sizeof(struct rehome_guest_boot_info) <= REHOME_GUEST_PAGE, "");

/* The chain lives in these two registers for the whole life of the guest; the mailbox has a copy.
 * The payload is compiled with -ffixed-r12 -ffixed-r13, so a vCPU state that loses them shows. */
register uint64_t chain __asm__("r12");
register uint64_t steps __asm__("r13");

#define BOOT_INFO ((const struct rehome_guest_boot_info *)REHOME_GUEST_BOOT_INFO)

/* A heartbeat line and the echo of what was typed meanwhile. */
#define OUTPUT_SIZE 256u /* a power of two */
/* Running time (not time stolen by the host) without a timer tick that counts as an error. */
#define TIMER_STALL_MS 500u
/* Of a gap, at most this much counts as running time. */
#define TIMER_TURN_MAX_US 100u
#define KEY_POWER_OFF 0x04 /* Ctrl-D */
#define LINE_STATUS_DATA_READY 1u

struct vcpu {
  volatile struct rehome_guest_mailbox *mailbox;
  uint32_t index;
  struct rehome_guest_area area;
  uint64_t last_tsc;
  uint64_t next_step_tsc;
  uint64_t next_heartbeat_tsc;
  uint64_t xmm_countdown;
  uint64_t seen_ticks;
  uint64_t ran_without_tick;
  uint32_t output_head, output_tail; /* free-running */
  char output[OUTPUT_SIZE];
};

static inline uint64_t read_tsc(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
  return (uint64_t)high << 32 | low;
}

static inline void out8(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

/* The payload's one use of SSE: a register that only the host's save and restore can lose. */
static inline uint64_t read_xmm7(void) {
  uint64_t value;
  __asm__ volatile("movq %%xmm7, %0" : "=r"(value));
  return value;
}

static inline void write_xmm7(uint64_t value) { __asm__ volatile("movq %0, %%xmm7" ::"r"(value)); }

static uint64_t load64(void *memory, uint64_t gpa) {
  (void)memory;
  return *(const volatile uint64_t *)gpa;
}

static void store64(void *memory, uint64_t gpa, uint64_t value) {
  (void)memory;
  *(volatile uint64_t *)gpa = value;
}

static void count_error(struct vcpu *v, enum rehome_guest_error kind, uint64_t gpa) {
  volatile struct rehome_guest_mailbox *m = v->mailbox;
  uint64_t before = 0;
  for (uint32_t k = 0; k < REHOME_GUEST_ERROR_KINDS; k++) before += m->errors[k];
  if (before == 0) {
    m->first_error_kind = kind;
    m->first_error_step = steps;
    m->first_error_gpa = gpa;
  }
  m->errors[kind]++;
}

/* struct pvclock_vcpu_time_info, Documentation/virt/kvm/x86/msr.rst. */
struct pvclock {
  volatile uint32_t version;
  uint32_t pad;
  volatile uint64_t tsc_timestamp;
  volatile uint64_t system_time;
  volatile uint32_t tsc_to_system_mul;
  volatile int8_t tsc_shift;
  volatile uint8_t flags;
  uint8_t pad2[2];
};

static uint64_t read_kvmclock(const struct pvclock *clock) {
  uint32_t version;
  uint64_t ns;
  do {
    version = clock->version & ~1u;
    __asm__ volatile("" ::: "memory");
    uint64_t delta = read_tsc() - clock->tsc_timestamp;
    delta = clock->tsc_shift >= 0 ? delta << clock->tsc_shift : delta >> -clock->tsc_shift;
    ns = clock->system_time +
         (uint64_t)(((unsigned __int128)delta * clock->tsc_to_system_mul) >> 32);
    __asm__ volatile("" ::: "memory");
  } while (version != clock->version);
  return ns;
}

static void measure_gap(struct vcpu *v, uint64_t now) {
  volatile struct rehome_guest_mailbox *m = v->mailbox;
  const uint64_t gap = now - v->last_tsc;
  if ((int64_t)gap < 0) {
    count_error(v, REHOME_GUEST_ERROR_TSC, 0);
  } else if (gap > m->gap_max) {
    m->gap_max = gap;
    m->gap_before = v->last_tsc;
    m->gap_after = now;
  }
  m->rounds[rehome_guest_round_bucket(gap)]++;
  const uint64_t request = m->gap_reset_request;
  if (request != m->gap_reset_done) {
    m->gap_max = m->gap_before = m->gap_after = 0;
    for (uint32_t i = 0; i < REHOME_GUEST_ROUND_BUCKETS; i++) m->rounds[i] = 0;
    m->gap_reset_done = request;
  }
  v->last_tsc = now;
  m->tsc = now;
}

static void check_kvmclock(struct vcpu *v) {
  volatile struct rehome_guest_mailbox *m = v->mailbox;
  const uint64_t ns = read_kvmclock(
      (const struct pvclock *)(REHOME_GUEST_PVCLOCK + v->index * REHOME_GUEST_PVCLOCK_STRIDE));
  if (ns < m->clock_ns) count_error(v, REHOME_GUEST_ERROR_CLOCK, 0);
  m->clock_ns = ns;
}

static void check_timer(struct vcpu *v, uint64_t gap) {
  const uint64_t ticks = v->mailbox->ticks;
  const uint64_t turn_max = BOOT_INFO->tsc_khz * TIMER_TURN_MAX_US / 1000;
  if (ticks != v->seen_ticks) {
    v->seen_ticks = ticks;
    v->ran_without_tick = 0;
    return;
  }
  v->ran_without_tick += gap < turn_max ? gap : turn_max;
  if (v->ran_without_tick > BOOT_INFO->tsc_khz * TIMER_STALL_MS) {
    count_error(v, REHOME_GUEST_ERROR_TIMER, 0);
    v->ran_without_tick = 0;
  }
}

/* What all page faults of a guest cost that has just been moved. */
static void touch_memory(struct vcpu *v) {
  volatile struct rehome_guest_mailbox *m = v->mailbox;
  const uint64_t request = m->touch_request;
  if (request == m->touch_done) return;
  const uint64_t begin = read_tsc();
  for (uint64_t at = 0; at < BOOT_INFO->ram_bytes; at += REHOME_GUEST_PAGE) {
    load64(0, rehome_guest_gpa(at));
  }
  m->touch_tsc = read_tsc() - begin;
  m->touch_done = request;
}

static void take_step(struct vcpu *v) {
  volatile struct rehome_guest_mailbox *m = v->mailbox;
  if (m->chain != chain || m->steps != steps) {
    count_error(v, REHOME_GUEST_ERROR_REGISTER, 0);
  }
  const struct rehome_guest_step_result result =
      rehome_guest_step(&v->area, chain, steps, load64, store64, 0);
  if (result.page_error) count_error(v, REHOME_GUEST_ERROR_PAGE, result.word_gpa);
  if (result.future_error) count_error(v, REHOME_GUEST_ERROR_FUTURE, result.word_gpa);
  chain = result.chain;
  m->chain = chain;
  steps++;
  m->steps = steps;
  if (--v->xmm_countdown == 0) {
    v->xmm_countdown = REHOME_GUEST_XMM_INTERVAL;
    if (read_xmm7() != m->xmm) count_error(v, REHOME_GUEST_ERROR_XMM, 0);
    m->xmm = rehome_guest_xmm_of(chain);
    write_xmm7(m->xmm);
  }
}

static void put(struct vcpu *v, char c) {
  if (v->output_head - v->output_tail < OUTPUT_SIZE) {
    v->output[v->output_head++ % OUTPUT_SIZE] = c;
  }
}

static void put_text(struct vcpu *v, const char *text) {
  while (*text) put(v, *text++);
}

static void put_number(struct vcpu *v, uint64_t number) {
  char digits[20];
  uint32_t count = 0;
  do {
    digits[count++] = (char)('0' + number % 10);
    number /= 10;
  } while (number);
  while (count) put(v, digits[--count]);
}

static void queue_heartbeat(struct vcpu *v) {
  uint64_t all_steps = 0, all_errors = 0;
  for (uint32_t i = 0; i < BOOT_INFO->vcpu_count; i++) {
    const volatile struct rehome_guest_mailbox *m =
        (const volatile struct rehome_guest_mailbox *)(REHOME_GUEST_MAILBOXES +
                                                       i * REHOME_GUEST_MAILBOX_STRIDE);
    all_steps += m->steps;
    for (uint32_t k = 0; k < REHOME_GUEST_ERROR_KINDS; k++) all_errors += m->errors[k];
  }
  put_text(v, "heartbeat ");
  put_number(v, ++v->mailbox->heartbeats);
  put_text(v, " steps ");
  put_number(v, all_steps);
  put_text(v, " errors ");
  put_number(v, all_errors);
  put_text(v, "\r\n");
}

/* Echoes what was typed. Asked for at each heartbeat only: every look at the port is an exit. */
static void poll_keyboard(struct vcpu *v) {
  while (v->output_head - v->output_tail < OUTPUT_SIZE / 2 &&
         (in8(REHOME_GUEST_SERIAL_PORT + 5) & LINE_STATUS_DATA_READY)) {
    const char key = (char)in8(REHOME_GUEST_SERIAL_PORT);
    if (key == KEY_POWER_OFF) out8(REHOME_GUEST_EXIT_PORT, REHOME_GUEST_EXIT_POWER_OFF);
    put(v, key);
  }
}

static void speak(struct vcpu *v, uint64_t now) {
  if (v->output_head != v->output_tail) {
    out8(REHOME_GUEST_SERIAL_PORT, (uint8_t)v->output[v->output_tail % OUTPUT_SIZE]);
    v->output_tail++;
  } else if (now >= v->next_heartbeat_tsc) {
    v->next_heartbeat_tsc = now + BOOT_INFO->heartbeat_tsc;
    poll_keyboard(v);
    queue_heartbeat(v);
  }
}

static void start(struct vcpu *v, uint32_t index) {
  const struct rehome_guest_boot_info *boot = BOOT_INFO;
  v->index = index;
  v->mailbox = (volatile struct rehome_guest_mailbox *)(REHOME_GUEST_MAILBOXES +
                                                        index * REHOME_GUEST_MAILBOX_STRIDE);
  v->area = rehome_guest_area_of(boot->ram_bytes, boot->vcpu_count, index, boot->working_set_pages);
  v->xmm_countdown = REHOME_GUEST_XMM_INTERVAL;
  v->output_head = v->output_tail = 0;
  v->seen_ticks = v->ran_without_tick = 0;
  chain = rehome_guest_first_chain(boot->seed, index);
  steps = 0;
  v->mailbox->vcpu = index;
  v->mailbox->chain = chain;
  v->mailbox->xmm = rehome_guest_xmm_of(chain);
  write_xmm7(v->mailbox->xmm);
  v->last_tsc = v->next_step_tsc = v->next_heartbeat_tsc = read_tsc();
  v->mailbox->magic = REHOME_GUEST_MAGIC;
}

__attribute__((noreturn)) void rehome_guest_main(uint32_t index) {
  const struct rehome_guest_boot_info *boot = BOOT_INFO;
  struct vcpu v;
  start(&v, index);
  for (;;) {
    const uint64_t now = read_tsc();
    const uint64_t gap = now - v.last_tsc;
    measure_gap(&v, now);
    if (boot->kvmclock) check_kvmclock(&v);
    if (boot->timer) check_timer(&v, gap);
    if (now >= v.next_step_tsc) {
      v.next_step_tsc = now + boot->step_tsc;
      take_step(&v);
    }
    if (index == 0) touch_memory(&v);
    if (index == 0 && boot->heartbeat_tsc) speak(&v, now);
    v.mailbox->loops++;
  }
}
