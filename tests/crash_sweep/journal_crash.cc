// SPDX-License-Identifier: Apache-2.0
//
// Preloaded into a daemon: stands between its journal and SQLite, where each append is one
// transaction with a row of `migrations` that ends with COMMIT, and kills the daemon just before or
// just after the one that the test names, or holds it there. The daemon is the real one, and so is
// what it leaves on disk.
#include <dlfcn.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
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

// Until it is sent on, or left alone. Where nobody listens any more nobody is waited for.
void Meet(const JournalCrashPage& page) {
  static_assert(sizeof(page.meet_socket) <= sizeof(sockaddr_un::sun_path));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, page.meet_socket, sizeof(page.meet_socket) - 1);
  const int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (peer < 0) return;
  if (connect(peer, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      send(peer, kJournalCrashPlace, sizeof(kJournalCrashPlace) - 1, MSG_NOSIGNAL) > 0) {
    char answer;
    while (recv(peer, &answer, 1, 0) < 0 && errno == EINTR) {
    }
  }
  close(peer);
}

void Stop(JournalCrashPage* page) {
  if (page->meet_socket[0] == '\0') Die(page);
  Meet(*page);
}

// The schema has transactions of its own, which are no appends.
bool EndsAppend(const char* sql) {
  constexpr char kAppends[] = "INSERT INTO migrations";
  static thread_local bool appends = false;  // in the transaction of this thread
  if (sql == nullptr) return false;
  if (std::strncmp(sql, "BEGIN", 5) == 0) appends = false;
  if (std::strncmp(sql, kAppends, sizeof(kAppends) - 1) == 0) appends = true;
  return appends && std::strcmp(sql, "COMMIT") == 0;
}

}  // namespace
}  // namespace rehome

extern "C" int sqlite3_step(sqlite3_stmt* statement) {
  static const auto real = reinterpret_cast<rehome::StepCall>(dlsym(RTLD_NEXT, "sqlite3_step"));
  static auto* const page =
      rehome::MapPreloadPageOf<rehome::JournalCrashPage>(rehome::kJournalCrashVariable);
  const bool ends_append = rehome::EndsAppend(sqlite3_sql(statement));
  if (page == nullptr || !ends_append || page->armed.load() == 0) return real(statement);
  const bool is_its_turn = page->appends.fetch_add(1) + 1 == page->crash_at.load();
  if (is_its_turn && page->is_before.load() != 0) rehome::Stop(page);
  const int result = real(statement);
  if (is_its_turn && page->is_before.load() == 0) rehome::Stop(page);
  return result;
}
