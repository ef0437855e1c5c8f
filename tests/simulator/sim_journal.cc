// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sim_journal.h"

#include "absl/strings/str_cat.h"
#include "daemon/journal_codec.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome::sim {

absl::Status SimJournal::Append(const Migration& record) {
  daemon_.gate.Pass();
  if (daemon_.dead) return absl::OkStatus();
  ++appends_;
  for (const DeathAtAppend& death : deaths) {
    if (death.append == appends_ && !death.after) {
      daemon_.Die(absl::StrCat("before append ", appends_));
      return absl::OkStatus();
    }
  }
  daemon_.world->Log(absl::StrCat("append ", appends_, ": ", record.request.vm_id, " ",
                                  StepName(record.step), " ", MigrationStateName(record.state), " ",
                                  GuestOwnerName(record.owner), " ", record.failure.reason));
  if (appends_ != lost_) {
    absl::Status status = Store(record);
    if (!status.ok()) return status;
  }
  for (const DeathAtAppend& death : deaths) {
    if (death.append == appends_ && death.after) {
      daemon_.Die(absl::StrCat("after append ", appends_));
    }
  }
  return absl::OkStatus();
}

absl::Status SimJournal::Store(const Migration& record) {
  if (sqlite_ != nullptr) return sqlite_->Append(record);
  const auto found = records_.find(record.id);
  if (found == records_.end()) {
    order_.push_back(record.id);
  } else if (found->second.first >= record.revision) {
    daemon_.world->Violate("a revision is on record already");
    return MakeStatus(absl::StatusCode::kInternal, reason::kJournalFailed, "revision");
  }
  records_[record.id] = {record.revision, EncodeRecord(record)};
  return absl::OkStatus();
}

absl::Status SimJournal::Load(const std::function<void(const Migration&)>& visit) {
  if (sqlite_ != nullptr) return sqlite_->Load(visit);
  for (const std::string& id : order_) {
    absl::StatusOr<Migration> record = Read(id);
    if (!record.ok()) return record.status();
    visit(*record);
  }
  return absl::OkStatus();
}

absl::StatusOr<Migration> SimJournal::Read(const std::string& id) {
  if (sqlite_ != nullptr) return sqlite_->Read(id);
  const auto found = records_.find(id);
  if (found == records_.end()) {
    return MakeStatus(absl::StatusCode::kNotFound, reason::kMigrationNotFound, id);
  }
  return DecodeRecord(found->second.second);
}

absl::Status SimJournal::Reopen() {
  if (directory_.empty()) return absl::OkStatus();
  sqlite_.reset();
  absl::StatusOr<std::unique_ptr<Journal>> opened = OpenSqliteJournal(directory_);
  if (!opened.ok()) return opened.status();
  sqlite_ = *std::move(opened);
  return absl::OkStatus();
}

}  // namespace rehome::sim
