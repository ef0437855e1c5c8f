/* SPDX-License-Identifier: Apache-2.0
 *
 * Futexes between processes. FUTEX_PRIVATE_FLAG is left out on purpose: with it the kernel would
 * look the waiter up by address in one mm and never find the other process.
 */
#ifndef REHOME_VMM_AGENT_FUTEX_H_
#define REHOME_VMM_AGENT_FUTEX_H_

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word is `expected`, until woken with one of `bits` or until CLOCK_MONOTONIC reaches
 * deadline_ns (0: no limit). -ETIMEDOUT, or 0 for every other reason: the caller looks again.
 *
 * The kernel looks at the word first and at the deadline only before it sleeps, so a peer that
 * never stops writing to the word could keep the caller looking for ever: the deadline is looked at
 * here as well. */
static inline int rehome_futex_wait(const uint32_t *word, uint32_t expected, uint32_t bits,
                                    uint64_t deadline_ns) {
  const struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                                    .tv_nsec = (long)(deadline_ns % 1000000000u)};
  long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected,
                        deadline_ns == 0 ? NULL : &deadline, NULL, bits);
  if (result < 0 && errno == ETIMEDOUT) return -ETIMEDOUT;
  if (deadline_ns == 0) return 0;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  bool is_over = now.tv_sec > deadline.tv_sec ||
                 (now.tv_sec == deadline.tv_sec && now.tv_nsec >= deadline.tv_nsec);
  return is_over ? -ETIMEDOUT : 0;
}

static inline void rehome_futex_wake(uint32_t *word, uint32_t bits) {
  (void)syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bits);
}

#endif /* REHOME_VMM_AGENT_FUTEX_H_ */
