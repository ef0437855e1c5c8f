// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_index.h"

#include <iterator>
#include <utility>

namespace rehome {

MigrationEntry* MigrationIndex::Add(const Migration& record,
                                    std::shared_ptr<ActiveMigration> active) {
  const uint64_t number = ++last_number_;
  MigrationEntry* entry = &entries_[number];
  entry->number = number;
  entry->id = record.id;
  entry->vm_id = record.request.vm_id;
  entry->request_id = record.request.request_id;
  entry->state = record.state;
  entry->active = std::move(active);
  by_id_[entry->id] = entry;
  if (!entry->request_id.empty()) {
    by_request_.erase(entry->request_id);  // the key would be a view of the older entry's string
    by_request_[entry->request_id] = entry;
  }
  if (entry->active == nullptr) {
    ++finished_;
    Prune();
  }
  return entry;
}

void MigrationIndex::Finish(MigrationEntry* entry, const Migration& last, bool journalled) {
  entry->state = last.state;
  entry->active.reset();
  if (!journalled) entry->unjournalled = std::make_unique<const Migration>(last);
  ++finished_;
  Prune();
}

MigrationEntry* MigrationIndex::Find(const std::string& id) {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const MigrationEntry* MigrationIndex::Find(const std::string& id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const MigrationEntry* MigrationIndex::FindRequest(const std::string& request_id) const {
  const auto found = by_request_.find(request_id);
  return found == by_request_.end() ? nullptr : found->second;
}

void MigrationIndex::Walk(const std::string& after_id,
                          const std::function<bool(const MigrationEntry&)>& visit) const {
  auto it = entries_.end();
  if (!after_id.empty()) {
    const MigrationEntry* after = Find(after_id);
    if (after == nullptr) return;
    it = entries_.find(after->number);
  }
  while (it != entries_.begin()) {
    --it;
    if (!visit(it->second)) return;
  }
}

void MigrationIndex::Prune() {
  // The oldest finished one is near the front: only unfinished ones can be before it.
  for (auto it = entries_.begin(); finished_ > max_finished_ && it != entries_.end();) {
    MigrationEntry& entry = it->second;
    if (entry.active != nullptr) {
      ++it;
      continue;
    }
    by_id_.erase(entry.id);
    const auto request = by_request_.find(entry.request_id);
    if (request != by_request_.end() && request->second == &entry) by_request_.erase(request);
    it = entries_.erase(it);
    --finished_;
  }
}

}  // namespace rehome
