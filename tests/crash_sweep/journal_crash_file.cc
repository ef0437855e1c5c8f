// SPDX-License-Identifier: Apache-2.0
#include "tests/crash_sweep/journal_crash_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "kvmglue/fd.h"

namespace rehome {

absl::StatusOr<std::unique_ptr<JournalCrashFile>> JournalCrashFile::Create() {
  std::unique_ptr<JournalCrashFile> created(new JournalCrashFile);
  const UniqueFd file(open(created->path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file || ftruncate(file.borrow().raw(), sizeof(JournalCrashPage)) != 0) {
    return absl::ErrnoToStatus(errno, "crash page");
  }
  void* address = mmap(nullptr, sizeof(JournalCrashPage), PROT_READ | PROT_WRITE, MAP_SHARED,
                       file.borrow().raw(), 0);
  if (address == MAP_FAILED) return absl::ErrnoToStatus(errno, "crash page");
  created->page_ = static_cast<JournalCrashPage*>(address);
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
