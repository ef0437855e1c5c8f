// SPDX-License-Identifier: Apache-2.0
//
// What a test and the library that it preloads into a daemon share: a mapped file.
#ifndef REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_PAGE_H_
#define REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_PAGE_H_

#include <atomic>
#include <cstdint>

namespace rehome {

// The environment variable with the file's path.
inline constexpr char kJournalCrashVariable[] = "REHOME_TEST_JOURNAL_CRASH_PAGE";

// All zero: nothing is counted and nobody dies.
struct JournalCrashPage {
  std::atomic<uint32_t> armed;      // appends are counted
  std::atomic<uint64_t> appends;    // that have begun since
  std::atomic<uint64_t> crash_at;   // the append at which the daemon dies; 0: none
  std::atomic<uint32_t> is_before;  // dies before it is written, else once it is
  std::atomic<uint32_t> crashed;    // it is dying
  // Instead of dying it meets whoever listens there, as a VMM at one of its places does
  // (vmm/reference/test_hooks.h); "": it dies. Written before `armed`.
  char meet_socket[108];
};
// What it says there.
inline constexpr char kJournalCrashPlace[] = "append\n";
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

}  // namespace rehome

#endif  // REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_PAGE_H_
