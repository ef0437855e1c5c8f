// SPDX-License-Identifier: Apache-2.0
//
// The half of the registry that runs: threads, the queue, how a migration is stopped and how it
// ends.
#include <algorithm>
#include <utility>

#include "daemon/driver.h"
#include "daemon/registry.h"
#include "daemon/thread.h"

namespace rehome {

// Threads come with the work, and stay. Not starting one more is an error only if there is none.
// REQUIRES admission_mutex_.
absl::Status Registry::EnsureWorker() {
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t free_workers = workers_.size() - busy_workers_;
  if (free_workers > queue_.size() || workers_.size() == options_.concurrent) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::thread> worker = StartThread([this] { Work(); });
  if (!worker.ok()) return workers_.empty() ? worker.status() : absl::OkStatus();
  workers_.push_back(*std::move(worker));
  return absl::OkStatus();
}

void Registry::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Active active = std::move(queue_.front());
    queue_.pop_front();
    ++busy_workers_;
    lock.unlock();
    const Migration last = Run(active);
    lock.lock();
    // In one go: whoever sees the end also finds this thread free.
    Finish(active, last);
    --busy_workers_;
  }
}

absl::Status Registry::StartRecovery() {
  std::lock_guard<std::mutex> admission(admission_mutex_);
  std::vector<Active> taken_over;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [vm_id, active] : active_by_vm_) taken_over.push_back(active);
  }
  for (const Active& active : taken_over) {
    absl::StatusOr<std::unique_ptr<Interrupt>> interrupt = Interrupt::Create();
    if (!interrupt.ok()) return interrupt.status();
    absl::Status status = EnsureWorker();
    if (!status.ok()) return status;
    std::lock_guard<std::mutex> lock(mutex_);
    active->interrupt = *std::move(interrupt);
    ++unended_;
    queue_.push_back(active);
    work_.notify_one();
  }
  return absl::OkStatus();
}

bool Registry::IsRecovered() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return recovering_ == 0;
}

bool Registry::AwaitRecovered() const {
  std::unique_lock<std::mutex> lock(mutex_);
  recovered_.wait(lock, [&] { return recovering_ == 0 || stopping_; });
  return recovering_ == 0;
}

std::set<std::string> Registry::Unfinished() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::set<std::string> ids;
  for (const auto& [vm_id, active] : active_by_vm_) ids.insert(active->record.id);
  return ids;
}

void Registry::NoteRecovered(const Active& active) {
  if (!active->recovering) return;
  active->recovering = false;
  if (--recovering_ == 0) recovered_.notify_all();
}

// From the queue to the terminal record, which it returns; no lock is held.
Migration Registry::Run(const Active& active) {
  Migration record;
  std::unique_ptr<MigrationEffects> effects;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    record = active->start;
    // A cancel may have come while it waited.
    record.cancel_requested |= active->record.cancel_requested;
    effects = std::move(active->effects);
  }
  if (effects == nullptr) effects = effects_->Create(record.id);
  const auto publish = [&](const Migration& next) {
    if (!IsTerminal(next.state)) Publish(active, next);
  };
  Migration last = Drive(std::move(record), active->first, active->cause,
                         {journal_, effects.get(), active->interrupt.get(), publish});
  if (last.step == Step::kUnresolved) {
    active->effects = std::move(effects);
  } else {
    // The effects are gone when this returns, and the terminal state is shown only then: whoever
    // sees it finds nothing of the migration left, and its trace.
    effects->End(last);
  }
  return last;
}

void Registry::Publish(const Active& active, Migration record) {
  std::lock_guard<std::mutex> lock(mutex_);
  // A cancel may have come since the driver looked.
  record.cancel_requested |= active->record.cancel_requested;
  active->record = std::move(record);
  index_.Find(active->record.id)->state = active->record.state;
  if (active->record.owner == GuestOwner::kNobody) vms_->LoseOwner(active->record.request.vm_id);
  if (active->record.step != Step::kRecovering) NoteRecovered(active);
  active->changed.notify_all();
}

void Registry::RunHere(const Active& active) {
  const Migration last = Run(active);
  std::lock_guard<std::mutex> lock(mutex_);
  Finish(active, last);
}

void Registry::Finish(const Active& active, const Migration& last) {
  deadlines_.Drop(last.id);
  active->record = last;
  if (last.step == Step::kUnresolved) {
    // Keeps its VM: nothing is started for a guest of which nobody knows where it is.
    index_.Find(last.id)->state = last.state;
    vms_->LoseOwner(last.request.vm_id);
  } else {
    vms_->SetActiveMigration(last.request.vm_id, "");
    active_by_vm_.erase(last.request.vm_id);
    // Only the first failure is on record, so that the terminal record is in the journal is certain
    // only if all are.
    index_.Finish(index_.Find(last.id), last, last.journal_failure.none());
  }
  NoteRecovered(active);
  if (--unended_ == 0) all_ended_.notify_all();
  active->changed.notify_all();
}

void Registry::Expire(const std::string& id) {
  Active active;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const MigrationEntry* entry = index_.Find(id);
    if (entry == nullptr || entry->active == nullptr) return;
    active = entry->active;
    RaiseInterrupt(active, StopCause::kDeadline);
    if (!TakeFromQueue(active)) return;
  }
  RunHere(active);
}

void Registry::RaiseInterrupt(const Active& active, StopCause cause) {
  const MigrationState state = active->record.state;
  if (state == MigrationState::kCompleting || state == MigrationState::kRollingBack) return;
  if (IsTerminal(state) || active->interrupt == nullptr) return;
  const bool first = active->interrupt->Raise(cause);
  if (first && cause == StopCause::kCancelled) active->record.cancel_requested = true;
}

bool Registry::TakeFromQueue(const Active& active) {
  const auto waiting = std::find(queue_.begin(), queue_.end(), active);
  if (waiting == queue_.end()) return false;
  queue_.erase(waiting);
  return true;
}

void Registry::Stop() {
  {
    // With the admission mutex nobody is between the check of stopping_ and the queue.
    std::lock_guard<std::mutex> admission(admission_mutex_);
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    // Those in the queue are left to the workers: they end at once.
    for (const auto& [vm_id, active] : active_by_vm_) RaiseInterrupt(active, StopCause::kShutdown);
    work_.notify_all();
    recovered_.notify_all();
  }
  std::vector<std::thread> workers;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    all_ended_.wait(lock, [&] { return unended_ == 0; });
    workers = std::move(workers_);
  }
  for (std::thread& worker : workers) worker.join();
  deadlines_.Stop();
}

}  // namespace rehome
