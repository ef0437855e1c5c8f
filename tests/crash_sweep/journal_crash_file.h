// SPDX-License-Identifier: Apache-2.0
//
// A test's side of the library that is preloaded into a daemon (journal_crash_page.h).
#ifndef REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_FILE_H_
#define REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_FILE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tests/crash_sweep/journal_crash_page.h"
#include "tests/harness/process.h"

namespace rehome {

// The page in a directory of its own, mapped as long as this lives.
class JournalCrashFile {
 public:
  // Errors of the file system.
  static absl::StatusOr<std::unique_ptr<JournalCrashFile>> Create();
  ~JournalCrashFile();
  JournalCrashFile(const JournalCrashFile&) = delete;
  JournalCrashFile& operator=(const JournalCrashFile&) = delete;

  JournalCrashPage& page() { return *page_; }
  // For HostOptions::daemon_environment. The test has //tests/crash_sweep:libjournal_crash.so in
  // its data.
  std::map<std::string, std::string> DaemonEnvironment() const;

 private:
  JournalCrashFile() = default;
  std::string path() const { return directory_.File("page"); }

  harness::TempDir directory_;
  JournalCrashPage* page_ = nullptr;
};

}  // namespace rehome

#endif  // REHOME_TESTS_CRASH_SWEEP_JOURNAL_CRASH_FILE_H_
