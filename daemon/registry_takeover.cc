// SPDX-License-Identifier: Apache-2.0
//
// What a registry makes of the journal that an earlier daemon left.
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/clock.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "daemon/registry.h"
#include "kvmglue/status_reason.h"

namespace rehome {

absl::Status Registry::LoadJournal() {
  std::vector<Migration> of_other_boots;
  std::vector<Migration> overtaken;
  absl::Status status = journal_->Load([&](const Migration& record) {
    if (record.step == Step::kDone) {
      index_.Add(record, nullptr);
      return;
    }
    auto active = std::make_shared<ActiveMigration>();
    active->record = record;
    index_.Add(record, active);
    // Keeps its place in the order until it is closed below; the journal cannot be called here.
    if (record.boot_id != options_.boot_id) {
      of_other_boots.push_back(record);
      return;
    }
    // A later one of a VM is admitted only once this one has ended: its end was not journalled.
    const auto earlier = active_by_vm_.find(record.request.vm_id);
    if (earlier != active_by_vm_.end()) {
      overtaken.push_back(earlier->second->record);
      --recovering_;
    }
    TakeOver(active);
  });
  if (!status.ok()) return status;
  for (const Migration& record : of_other_boots) Close(CloseAfterReboot(record));
  for (const Migration& record : overtaken) {
    Migration closed = record;
    closed.state = MigrationState::kFailed;
    closed.step = Step::kDone;
    closed.owner = GuestOwner::kNobody;
    closed.failure = {std::string(reason::kJournalFailed),
                      "its end was not journalled; a later migration of its VM is on record"};
    closed.revision++;
    Close(std::move(closed));
  }
  return absl::OkStatus();
}

void Registry::Close(Migration closed) {
  closed.end_time_unix_ns = UnixNanos();
  const absl::Status status = journal_->Append(closed);
  if (!status.ok()) {
    closed.journal_failure = {ReasonOf(status), std::string(status.message())};
  }
  index_.Finish(index_.Find(closed.id), closed, status.ok());
}

void Registry::TakeOver(const Active& active) {
  const Migration& record = active->record;
  active->first = Event::kDaemonRestarted;
  active->cause = {std::string(reason::kDaemonRestarted),
                   absl::StrCat("rehomed ended in step ", StepName(record.step))};
  active->start = record;
  active->recovering = true;
  active_by_vm_[record.request.vm_id] = active;
  ++recovering_;
  VmEntry vm;
  vm.vm_id = record.request.vm_id;
  vm.vm_type = record.vm_type;
  vm.vcpu_count = record.vcpu_count;
  vm.memory_bytes = record.memory_bytes;
  vm.vmm = record.source_vmm;
  vm.process = record.source;
  vms_->Reserve(vm, record.id);
}

}  // namespace rehome
