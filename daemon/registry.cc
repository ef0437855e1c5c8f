// SPDX-License-Identifier: Apache-2.0
#include "daemon/registry.h"

#include <sys/random.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "daemon/clock.h"
#include "daemon/driver.h"
#include "daemon/machine.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status NoSuchMigration(const std::string& id) {
  return MakeStatus(absl::StatusCode::kNotFound, reason::kMigrationNotFound,
                    absl::StrCat("no migration ", id));
}

absl::Status CheckTimes(std::chrono::milliseconds value, std::chrono::milliseconds max,
                        const char* name) {
  if (value.count() >= 0 && value <= max) return absl::OkStatus();
  return MakeStatus(
      absl::StatusCode::kInvalidArgument, reason::kBadDeadline,
      absl::StrCat(name, " must be 0 (default) to ", max.count(), " ms, not ", value.count()));
}

absl::Status CheckRequest(const MigrationRequest& request) {
  if (request.request_id.size() > kMaxRequestIdBytes) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadRequestId,
                      absl::StrCat("a request_id has at most ", kMaxRequestIdBytes, " bytes"));
  }
  absl::Status status = CheckTimes(request.deadline, kMaxDeadline, "deadline");
  if (!status.ok()) return status;
  return CheckTimes(request.handover_timeout, kMaxHandoverTimeout, "handover_timeout");
}

bool SameParameters(MigrationRequest a, MigrationRequest b) {
  // A client that tries again is another process.
  a.requested_by.clear();
  b.requested_by.clear();
  return a == b;
}

// Random, so that ids of a journal that was lost do not come back with another meaning.
std::string NewId() {
  uint64_t number = 0;
  // Cannot fail: the pool is initialised long before any daemon runs, and 8 bytes come at once.
  [[maybe_unused]] const ssize_t size = getrandom(&number, sizeof(number), 0);
  return absl::StrFormat("m-%016x", number);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Registry>> Registry::Create(Options options, Journal* journal,
                                                           VmDirectory* vms,
                                                           EffectsFactory* effects) {
  if (options.concurrent == 0 || options.concurrent > kMaxConcurrent) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kBadConfiguration,
                      absl::StrCat("concurrent migrations must be 1 to ", kMaxConcurrent));
  }
  if (options.boot_id.empty()) {
    absl::StatusOr<std::string> boot_id = ReadBootId();
    if (!boot_id.ok()) return boot_id.status();
    options.boot_id = *std::move(boot_id);
  }
  std::unique_ptr<Registry> registry(new Registry(std::move(options), journal, vms, effects));
  absl::Status status = registry->LoadJournal();
  if (!status.ok()) return status;
  return registry;
}

Registry::Registry(Options options, Journal* journal, VmDirectory* vms, EffectsFactory* effects)
    : options_(std::move(options)),
      journal_(journal),
      vms_(vms),
      effects_(effects),
      index_(options_.max_finished),
      deadlines_([this](const std::string& id) { Expire(id); }) {}

Registry::~Registry() { Stop(); }

absl::StatusOr<Migration> Registry::Create(const MigrationRequest& request) {
  absl::Status status = CheckRequest(request);
  if (!status.ok()) return status;
  if (request.validate_only) return Validate(request);

  std::lock_guard<std::mutex> admission(admission_mutex_);
  if (!request.request_id.empty()) {
    // Before everything that can have changed since: a retry gets its answer though the VM be gone.
    absl::StatusOr<std::optional<Migration>> earlier = FindEarlier(request);
    if (!earlier.ok()) return earlier.status();
    if (earlier->has_value()) return **std::move(earlier);
  }
  absl::StatusOr<VmEntry> vm = CheckAdmission(request);
  if (!vm.ok()) return vm.status();
  return Admit(request, *vm);
}

absl::StatusOr<Migration> Registry::Validate(const MigrationRequest& request) {
  absl::StatusOr<VmEntry> vm = CheckAdmission(request);
  if (!vm.ok()) return vm.status();
  absl::StatusOr<std::unique_ptr<Interrupt>> interrupt = Interrupt::Create();
  if (!interrupt.ok()) return interrupt.status();

  Migration record = NewRecord(request, *vm);
  record.step = Step::kPreflight;
  record.state = MigrationState::kPreparing;
  Outcome outcome =
      effects_->Create(record.id)->Perform(Effect::kRunPreflight, record, **interrupt);
  const bool passed = outcome.event == Event::kPreflightPassed;
  Migration answer = std::move(outcome.update);
  answer.id.clear();
  answer.step = Step::kDone;
  answer.state = passed ? MigrationState::kSucceeded : MigrationState::kFailed;
  if (!passed) answer.failure = std::move(outcome.cause);
  answer.end_time_unix_ns = UnixNanos();
  return answer;
}

absl::StatusOr<std::optional<Migration>> Registry::FindEarlier(
    const MigrationRequest& request) const {
  std::string id;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const MigrationEntry* entry = index_.FindRequest(request.request_id);
    if (entry == nullptr) return std::nullopt;
    id = entry->id;
  }
  absl::StatusOr<Migration> earlier = Get(id);
  if (absl::IsNotFound(earlier.status())) return std::nullopt;  // pruned a moment ago
  if (!earlier.ok()) return earlier.status();
  if (SameParameters(earlier->request, request)) return *std::move(earlier);
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kRequestIdReused,
                    absl::StrCat("request_id ", request.request_id, " belongs to migration ", id,
                                 ", which had other parameters"));
}

absl::StatusOr<VmEntry> Registry::CheckAdmission(const MigrationRequest& request) const {
  absl::StatusOr<VmEntry> vm = vms_->Get(request.vm_id);
  if (!vm.ok()) return vm.status();
  if (options_.check_profile != nullptr) {
    absl::Status profile = options_.check_profile(request.target_profile);
    if (!profile.ok()) return profile;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (stopping_) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                      "rehomed is being stopped");
  }
  if (recovering_ > 0) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kRecovering,
                      absl::StrCat("rehomed has just started and is finding out how ", recovering_,
                                   " migration(s) stand"));
  }
  const auto active = active_by_vm_.find(request.vm_id);
  if (active != active_by_vm_.end()) {
    if (IsTerminal(active->second->record.state)) {
      return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kMigrationUnresolved,
                        absl::StrCat("migration ", active->second->record.id, " of VM ",
                                     request.vm_id, " is INDETERMINATE: resolve it first"));
    }
    return MakeStatus(
        absl::StatusCode::kAborted, reason::kMigrationInProgress,
        absl::StrCat("VM ", request.vm_id, " is being migrated by ", active->second->record.id));
  }
  if (queue_.size() >= kMaxPending) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, reason::kQueueFull,
                      absl::StrCat(kMaxPending, " migrations are waiting already"));
  }
  return vm;
}

// REQUIRES admission_mutex_.
absl::StatusOr<Migration> Registry::Admit(const MigrationRequest& request, const VmEntry& vm) {
  absl::StatusOr<std::unique_ptr<Interrupt>> interrupt = Interrupt::Create();
  if (!interrupt.ok()) return interrupt.status();
  auto active = std::make_shared<ActiveMigration>();
  active->record = NewRecord(request, vm);
  active->interrupt = *std::move(interrupt);
  active->start = active->record;
  const Migration record = active->record;

  // All that can fail comes before the record, and the record before anybody can see it.
  const auto deadline =
      request.deadline.count() == 0 ? options_.default_deadline : request.deadline;
  const auto admitted = DeadlineTimer::Clock::now();
  absl::Status status = EnsureWorker();
  if (status.ok()) status = deadlines_.Start();
  if (status.ok()) status = journal_->Append(record);
  if (!status.ok()) return status;

  std::lock_guard<std::mutex> lock(mutex_);
  index_.Add(record, active);
  active_by_vm_[request.vm_id] = active;
  vms_->SetActiveMigration(request.vm_id, record.id);
  deadlines_.Schedule(record.id, admitted + deadline);
  ++unended_;
  queue_.push_back(std::move(active));
  work_.notify_one();
  return record;
}

Migration Registry::NewRecord(const MigrationRequest& request, const VmEntry& vm) const {
  Migration record;
  record.id = NewId();
  record.request = request;
  record.revision = 1;
  record.vm_type = vm.vm_type;
  record.vcpu_count = vm.vcpu_count;
  record.memory_bytes = vm.memory_bytes;
  record.source = vm.process;
  record.source_vmm = vm.vmm;
  record.create_time_unix_ns = UnixNanos();
  record.boot_id = options_.boot_id;
  return record;
}

absl::StatusOr<Migration> Registry::Get(const std::string& id) const {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const MigrationEntry* entry = index_.Find(id);
    if (entry == nullptr) return NoSuchMigration(id);
    if (entry->active != nullptr) return entry->active->record;
    if (entry->unjournalled != nullptr) return *entry->unjournalled;
  }
  return journal_->Read(id);
}

absl::StatusOr<std::vector<Migration>> Registry::List(const MigrationFilter& filter, size_t limit,
                                                      const std::string& after_id,
                                                      bool* more) const {
  std::vector<std::string> ids;
  *more = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    index_.Walk(after_id, [&](const MigrationEntry& entry) {
      if (!filter.vm_id.empty() && entry.vm_id != filter.vm_id) return true;
      if (filter.state.has_value() && entry.state != *filter.state) return true;
      *more = ids.size() == limit;
      if (!*more) ids.push_back(entry.id);
      return !*more;
    });
  }
  std::vector<Migration> page;
  page.reserve(ids.size());
  for (const std::string& id : ids) {
    absl::StatusOr<Migration> record = Get(id);
    if (absl::IsNotFound(record.status())) continue;  // pruned a moment ago
    if (!record.ok()) return record.status();
    page.push_back(*std::move(record));
  }
  return page;
}

absl::StatusOr<Migration> Registry::WaitForChange(const std::string& id, uint64_t seen_revision,
                                                  std::chrono::milliseconds timeout) const {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const MigrationEntry* entry = index_.Find(id);
    if (entry == nullptr) return NoSuchMigration(id);
    if (const Active active = entry->active; active != nullptr) {
      active->changed.wait_for(lock, timeout, [&] {
        return active->record.revision > seen_revision || IsTerminal(active->record.state);
      });
      return active->record;
    }
  }
  return Get(id);
}

absl::StatusOr<Migration> Registry::Cancel(const std::string& id) {
  Active active;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const MigrationEntry* entry = index_.Find(id);
    if (entry == nullptr) return NoSuchMigration(id);
    active = entry->active;
    if (active == nullptr || IsTerminal(entry->state)) {
      return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kAlreadyFinished,
                        absl::StrCat("migration ", id, " is ", MigrationStateName(entry->state)));
    }
    if (entry->state == MigrationState::kCompleting) {
      return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kPastCommit,
                        absl::StrCat("migration ", id, ": the guest runs on the target"));
    }
    RaiseInterrupt(active, StopCause::kCancelled);
    // Only one that has done nothing yet ends on the caller's thread.
    if (active->record.step != Step::kQueued || active->recovering) return active->record;
    if (!TakeFromQueue(active)) return active->record;
  }
  RunHere(active);
  return Get(id);
}

absl::StatusOr<Migration> Registry::Resolve(const std::string& id) {
  std::lock_guard<std::mutex> admission(admission_mutex_);
  absl::Status status = EnsureWorker();
  if (!status.ok()) return status;
  std::lock_guard<std::mutex> lock(mutex_);
  const MigrationEntry* entry = index_.Find(id);
  if (entry == nullptr) return NoSuchMigration(id);
  if (entry->active != nullptr && entry->active->recovering) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kRecovering,
                      absl::StrCat("migration ", id, " is being looked at already"));
  }
  if (entry->active == nullptr || entry->state != MigrationState::kIndeterminate) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, reason::kNotIndeterminate,
                      absl::StrCat("migration ", id, " is ", MigrationStateName(entry->state)));
  }
  if (stopping_) {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kShuttingDown,
                      "rehomed is being stopped");
  }
  const Active active = entry->active;
  active->first = Event::kResolveRequested;
  active->cause = {};
  active->start = active->record;
  // What the drive will begin with, shown at once: whoever watches from here on sees it go on.
  absl::StatusOr<Advanced> next = Advance(active->record, active->first, {}, {});
  if (!next.ok()) return next.status();
  active->record = std::move(next->record);
  index_.Find(id)->state = active->record.state;
  ++unended_;
  queue_.push_back(active);
  work_.notify_one();
  active->changed.notify_all();
  return active->record;
}

}  // namespace rehome
