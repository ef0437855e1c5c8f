// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/memory_journal.h"

#include <map>
#include <utility>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {

absl::Status MemoryJournal::Append(const Migration& record) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (rule_ != nullptr) {
    absl::Status status = rule_(record);
    if (!status.ok()) return status;
  }
  for (const Migration& earlier : appended_) {
    if (earlier.id == record.id && earlier.revision >= record.revision) {
      return MakeStatus(absl::StatusCode::kInternal, reason::kJournalFailed,
                        "a revision is on record already");
    }
  }
  appended_.push_back(record);
  return absl::OkStatus();
}

absl::Status MemoryJournal::Load(const std::function<void(const Migration&)>& visit) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!read_error_.ok()) return read_error_;
  std::vector<std::string> order;
  std::map<std::string, const Migration*> latest;
  for (const Migration& record : appended_) {
    if (!latest.contains(record.id)) order.push_back(record.id);
    latest[record.id] = &record;
  }
  for (const std::string& id : order) visit(*latest[id]);
  return absl::OkStatus();
}

absl::StatusOr<Migration> MemoryJournal::Read(const std::string& id) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++reads_;
  if (!read_error_.ok()) return read_error_;
  for (auto record = appended_.rbegin(); record != appended_.rend(); ++record) {
    if (record->id == id) return *record;
  }
  return MakeStatus(absl::StatusCode::kNotFound, reason::kMigrationNotFound, id);
}

void MemoryJournal::FailAppends(std::function<absl::Status(const Migration&)> rule) {
  std::lock_guard<std::mutex> lock(mutex_);
  rule_ = std::move(rule);
}

std::vector<Migration> MemoryJournal::Appended(const std::string& id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Migration> records;
  for (const Migration& record : appended_) {
    if (id.empty() || record.id == id) records.push_back(record);
  }
  return records;
}

void MemoryJournal::FailReads(absl::Status error) {
  std::lock_guard<std::mutex> lock(mutex_);
  read_error_ = std::move(error);
}

size_t MemoryJournal::reads() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return reads_;
}

absl::Status MemoryJournal::Full() {
  return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kJournalFull,
                    "database or disk is full");
}

}  // namespace rehome
