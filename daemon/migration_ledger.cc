// SPDX-License-Identifier: Apache-2.0
#include "daemon/migration_ledger.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>

#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

constexpr char kOtherReason[] = "OTHER";

// Not final, and something may be held of it.
bool IsOpen(const Migration& record) {
  return !IsTerminal(record.state) || record.state == MigrationState::kIndeterminate;
}

// No guest stands still longer than a migration may take; the time stamps are the VMMs'.
constexpr uint64_t kMaxBlackoutNs = std::chrono::nanoseconds(kMaxDeadline).count();

// Of a guest that runs on the target; nullopt if the VMMs' time stamps make no sense.
std::optional<uint64_t> BlackoutNs(const Migration& record) {
  const uint64_t begin = record.phases[REHOME_PHASE_PAUSE_REQUESTED];
  const uint64_t end = record.phases[REHOME_PHASE_RUNNING];
  if (record.owner != GuestOwner::kTarget || begin == 0 || end < begin) return std::nullopt;
  if (end - begin > kMaxBlackoutNs) return std::nullopt;
  return end - begin;
}

void AddTo(uint64_t blackout_ns, BlackoutHistogram* histogram) {
  const auto bound = std::lower_bound(kBlackoutBounds.begin(), kBlackoutBounds.end(), blackout_ns);
  ++histogram->buckets[static_cast<size_t>(bound - kBlackoutBounds.begin())];
  ++histogram->count;
  histogram->sum_ns += blackout_ns;
}

class LedgerJournal final : public Journal {
 public:
  LedgerJournal(Journal* journal, MigrationLedger* ledger) : journal_(journal), ledger_(ledger) {}

  absl::Status Append(const Migration& record) override {
    const absl::Status status = journal_->Append(record);
    // From the blackout on a migration goes on unrecorded.
    if (status.ok() || record.revision > 1) ledger_->Add(record);
    return status;
  }
  absl::Status Load(const std::function<void(const Migration&)>& visit) override {
    return journal_->Load([&](const Migration& record) {
      ledger_->Known(record);
      visit(record);
    });
  }
  absl::StatusOr<Migration> Read(const std::string& id) override { return journal_->Read(id); }
  absl::Status PutTrace(const std::string& id, const MigrationTrace& trace) override {
    return journal_->PutTrace(id, trace);
  }
  absl::StatusOr<MigrationTrace> ReadTrace(const std::string& id) const override {
    return journal_->ReadTrace(id);
  }
  JournalRepair repair() const override { return journal_->repair(); }

 private:
  Journal* const journal_;
  MigrationLedger* const ledger_;
};

}  // namespace

void MigrationLedger::Known(const Migration& record) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Follow(record);
}

void MigrationLedger::Add(const Migration& record) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto before = open_.find(record.id);
  if (before != open_.end()) {
    const Open& open = before->second;
    if (record.rescue.attempts > open.rescue_attempts) {
      totals_.rescue_attempts += record.rescue.attempts - open.rescue_attempts;
    }
    if (record.restarts > open.restarts) ++totals_.recovered;
  }
  if (IsTerminal(record.state)) CountEnd(record);
  Follow(record);
}

void MigrationLedger::Follow(const Migration& record) {
  if (IsOpen(record)) {
    open_[record.id] = {.state = record.state,
                        .memory = record.memory_inodes,
                        .rescue_attempts = record.rescue.attempts,
                        .restarts = record.restarts};
    return;
  }
  open_.erase(record.id);
  KeepFinished(record.memory_inodes);
}

void MigrationLedger::CountEnd(const Migration& record) {
  std::pair<MigrationState, std::string> outcome{record.state, record.failure.reason};
  if (!totals_.ended.contains(outcome) && totals_.ended.size() >= kMaxOutcomes) {
    outcome.second = kOtherReason;
  }
  ++totals_.ended[outcome];
  const std::optional<uint64_t> blackout = BlackoutNs(record);
  if (blackout.has_value()) AddTo(*blackout, &totals_.blackouts[record.strategy]);
}

void MigrationLedger::KeepFinished(const std::vector<InodeId>& memory) {
  for (const InodeId& inode : memory) {
    finished_[inode] = ++last_number_;
    finished_order_.emplace_back(last_number_, inode);
  }
  while (finished_order_.size() > kMaxFinishedInodes) {
    const auto [number, inode] = finished_order_.front();
    finished_order_.pop_front();
    // Unless a later migration moved the same memory.
    const auto found = finished_.find(inode);
    if (found != finished_.end() && found->second == number) finished_.erase(found);
  }
}

MigrationLedger::Totals MigrationLedger::totals() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Totals totals = totals_;
  for (size_t i = 1; i <= kMigrationStateCount; ++i) {
    const auto state = static_cast<MigrationState>(i);
    if (!IsTerminal(state) || state == MigrationState::kIndeterminate) totals.open[state] = 0;
  }
  for (const auto& [id, open] : open_) ++totals.open[open.state];
  return totals;
}

std::map<InodeId, MemoryUse> MigrationLedger::GuestMemory() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::map<InodeId, MemoryUse> memory;
  for (const auto& [inode, number] : finished_) memory.emplace(inode, MemoryUse::kFinished);
  for (const auto& [id, open] : open_) {
    const MemoryUse use = open.state == MigrationState::kIndeterminate ? MemoryUse::kIndeterminate
                                                                       : MemoryUse::kActive;
    // MemoryUse is in the order of precedence.
    for (const InodeId& inode : open.memory) {
      MemoryUse& known = memory.try_emplace(inode, use).first->second;
      known = std::max(known, use);
    }
  }
  return memory;
}

std::unique_ptr<Journal> NewLedgerJournal(Journal* journal, MigrationLedger* ledger) {
  return std::make_unique<LedgerJournal>(journal, ledger);
}

}  // namespace rehome
