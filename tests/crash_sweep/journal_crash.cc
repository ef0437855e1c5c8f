// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a daemon: stands between its journal and SQLite, where each append is one
// transaction that ends with COMMIT, and kills the daemon just before or just after the one that
// the test names. The daemon is the real one, and so is what it leaves on disk.
#include <dlfcn.h>
#include <signal.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cstring>

#include "tests/crash_sweep/journal_crash_page.h"
#include "tests/preload_page.h"

namespace rehome {
namespace {

using StepCall = int (*)(sqlite3_stmt*);

// As from SIGKILL, because it is one: no destructor runs, no thread takes another step.
[[noreturn]] void Die(JournalCrashPage* page) {
  page->crashed.store(1);
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

}  // namespace
}  // namespace rehome

extern "C" int sqlite3_step(sqlite3_stmt* statement) {
  static const auto real = reinterpret_cast<rehome::StepCall>(dlsym(RTLD_NEXT, "sqlite3_step"));
  static auto* const page =
      rehome::MapPreloadPageOf<rehome::JournalCrashPage>(rehome::kJournalCrashVariable);
  const char* sql = sqlite3_sql(statement);
  const bool ends_append = sql != nullptr && std::strcmp(sql, "COMMIT") == 0;
  if (page == nullptr || !ends_append || page->armed.load() == 0) return real(statement);
  const bool is_its_turn = page->appends.fetch_add(1) + 1 == page->crash_at.load();
  if (is_its_turn && page->is_before.load() != 0) rehome::Die(page);
  const int result = real(statement);
  if (is_its_turn) rehome::Die(page);
  return result;
}
