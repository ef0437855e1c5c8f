// SPDX-License-Identifier: Apache-2.0
#include "tests/crash_sweep/journal_crash_file.h"

#include <sys/mman.h>

#include <cerrno>

#include "tests/preload_page.h"

namespace rehome {

absl::StatusOr<std::unique_ptr<JournalCrashFile>> JournalCrashFile::Create() {
  std::unique_ptr<JournalCrashFile> created(new JournalCrashFile);
  created->page_ = MapPreloadPage<JournalCrashPage>(created->path().c_str(), O_CREAT);
  if (created->page_ == nullptr) return absl::ErrnoToStatus(errno, "crash page");
  return created;
}

JournalCrashFile::~JournalCrashFile() {
  if (page_ != nullptr) munmap(page_, sizeof(*page_));
}

std::map<std::string, std::string> JournalCrashFile::DaemonEnvironment() const {
  return {{"LD_PRELOAD", harness::BinaryPath("tests/crash_sweep/libjournal_crash.so")},
          {kJournalCrashVariable, path()}};
}

}  // namespace rehome
