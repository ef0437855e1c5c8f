// SPDX-License-Identifier: Apache-2.0
//
// A journal in memory that fails when told to, and remembers every transition.
#ifndef REHOME_DAEMON_TESTING_MEMORY_JOURNAL_H_
#define REHOME_DAEMON_TESTING_MEMORY_JOURNAL_H_

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "daemon/journal.h"
#include "daemon/migration.h"

namespace rehome {

// Thread-safe.
class MemoryJournal : public Journal {
 public:
  absl::Status Append(const Migration& record) override;
  absl::Status Load(const std::function<void(const Migration&)>& visit) override;
  absl::StatusOr<Migration> Read(const std::string& id) override;

  // Asked before each append; its error is what Append() returns. Null: none fails.
  void FailAppends(std::function<absl::Status(const Migration&)> rule);
  // Every record whose append succeeded, in order; of one migration if `id` is given.
  std::vector<Migration> Appended(const std::string& id = "") const;
  // What Read() and Load() return instead of a record while it is an error.
  void FailReads(absl::Status error);
  size_t reads() const;

  // JOURNAL_FULL as SQLite's journal would say it.
  static absl::Status Full();

 private:
  mutable std::mutex mutex_;
  std::vector<Migration> appended_;
  std::function<absl::Status(const Migration&)> rule_;
  absl::Status read_error_ = absl::OkStatus();
  size_t reads_ = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_MEMORY_JOURNAL_H_
