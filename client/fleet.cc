// SPDX-License-Identifier: Apache-2.0
#include "client/fleet.h"

#include <algorithm>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/api_error.h"
#include "client/request_id.h"

namespace rehome {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = FleetResult::Kind;
using Plan = FleetVm::Plan;

// Of one VM, after daemons that ended under its migration. A daemon that ends each time is a
// failure.
constexpr int kMaxTries = 3;
// Newest migrations of one VM among which one that may have been started a moment ago is looked
// for.
constexpr int kRecent = 50;

// Between functions of this file, for a VM of which nothing was started; no error of anybody's.
constexpr char kNotStarted[] = "NOT_STARTED";
absl::Status NotStarted() {
  return ClientError(absl::StatusCode::kCancelled, kNotStarted, "not started");
}
bool IsNotStarted(const absl::Status& status) { return ApiReasonOf(status) == kNotStarted; }

// The daemon ended, and the guest is where it was: says nothing about the guest.
bool WasCutShort(const v1::Migration& migration) {
  if (migration.state() != v1::Migration::FAILED) return false;
  if (migration.guest_owner() != v1::Migration::SOURCE) return false;
  const std::string reason = DetailsOf(migration.error()).info.reason();
  return reason == "DAEMON_RESTARTED" || reason == "SHUTTING_DOWN";
}

// A server that stops cancels the calls that it has just taken. The daemon itself never says that.
bool AnswerWasLost(const absl::Status& error) {
  const bool cut = absl::IsCancelled(error) && ApiReasonOf(error).empty();
  return cut || absl::IsUnavailable(error) || absl::IsDeadlineExceeded(error);
}

// How long an error may last before it counts; zero: it counts at once.
std::chrono::milliseconds PatienceWith(const absl::Status& error, const FleetOptions& options) {
  const std::string reason = ApiReasonOf(error);
  if (AnswerWasLost(error) || reason == "QUEUE_FULL") return options.give_up_after;
  if (reason == "MIGRATION_IN_PROGRESS") return options.give_up_after;
  if (reason == "VM_NOT_FOUND" && !options.request.validate_only()) return options.vm_patience;
  return {};
}

// Of one request. Each kind of error has a clock of its own, which starts when it is first seen: a
// daemon that was away for long may miss the VM a little longer. None is set back, so that errors
// that take turns end, too.
class Patience {
 public:
  explicit Patience(const FleetOptions& options) : options_(options) {}

  bool EndedWith(const absl::Status& error) {
    const Clock::time_point now = Clock::now();
    const std::string kind = AnswerWasLost(error) ? "" : ApiReasonOf(error);
    const auto [first, is_first] = first_seen_.emplace(kind, now);
    return now - first->second >= PatienceWith(error, options_);
  }

 private:
  const FleetOptions& options_;
  std::map<std::string, Clock::time_point> first_seen_;  // by reason; "" for a lost answer
};

}  // namespace

bool HasRecord(const FleetResult& result) { return result.error.ok(); }

FleetMove::FleetMove(MigrationClient* client, const FleetPlan& plan, const FleetOptions& options,
                     FleetObserver* observer)
    : client_(client), plan_(plan), options_(options), observer_(observer) {
  for (const FleetVm& vm : plan.vms) {
    FleetResult result{.vm = vm.vm, .migration = vm.migration};
    if (vm.plan == Plan::kAlreadyThere) result.kind = Kind::kAlreadyThere;
    if (vm.plan == Plan::kUnresolved) result.kind = Kind::kFailed;
    if (vm.plan == Plan::kJoin) result.kind = Kind::kUnderWay;
    result.joined = vm.plan == Plan::kJoin;
    results_.push_back(std::move(result));
    // Those under way come first: they are waited for whatever happens.
    const bool join = vm.plan == Plan::kJoin;
    if (join) work_.insert(work_.begin() + joins_++, results_.size() - 1);
    if (vm.plan == Plan::kMove) work_.push_back(results_.size() - 1);
  }
}

void FleetMove::Run() {
  for (size_t index = 0; index < plan_.vms.size(); ++index) {
    if (plan_.vms[index].plan != Plan::kUnresolved) continue;
    Tell(&FleetObserver::Finished, index);
    if (!options_.keep_going && !options_.request.validate_only()) StopStarting();
  }
  std::vector<std::thread> workers(std::min(options_.concurrency, work_.size()));
  for (std::thread& worker : workers) worker = std::thread(&FleetMove::Work, this);
  for (std::thread& worker : workers) worker.join();
}

void FleetMove::StopStarting() {
  const std::lock_guard<std::mutex> lock(mutex_);
  stopping_ = true;
  stopped_.notify_all();
}

std::vector<FleetResult> FleetMove::Results() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return results_;
}

bool FleetMove::stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopping_;
}

bool FleetMove::Pause(std::chrono::milliseconds duration) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !stopped_.wait_for(lock, duration, [this] { return stopping_; });
}

void FleetMove::Work() {
  for (size_t index = 0; TakeNext(&index);) Move(index);
}

bool FleetMove::TakeNext(size_t* index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (next_ == work_.size() || (stopping_ && next_ >= joins_)) return false;
  *index = work_[next_++];
  results_[*index].kind = Kind::kUnderWay;
  return true;
}

void FleetMove::Move(size_t index) {
  absl::StatusOr<v1::Migration> last = NotStarted();
  for (int tries = 1; tries <= kMaxTries; ++tries) {
    const bool join = tries == 1 && plan_.vms[index].plan == Plan::kJoin;
    absl::StatusOr<v1::Migration> next = MoveOnce(index, join);
    // Stopped before another try: the one that was cut short is how it ended.
    if (tries > 1 && IsNotStarted(next.status())) break;
    last = std::move(next);
    if (!last.ok() || !WasCutShort(*last) || stopping()) break;
  }
  Conclude(index, last);
}

absl::StatusOr<v1::Migration> FleetMove::MoveOnce(size_t index, bool join) {
  bool joined = join;
  absl::StatusOr<v1::Migration> migration =
      join ? plan_.vms[index].migration : StartOrJoin(index, &joined);
  if (!migration.ok()) return migration;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    results_[index].migration = *migration;
    results_[index].joined = joined;
  }
  if (options_.request.validate_only()) return migration;
  Tell(&FleetObserver::Started, index);
  return IsFinished(*migration) ? migration : WatchToTheEnd(index, *std::move(migration));
}

// The same request_id in every try: a try whose answer was lost may have worked.
absl::StatusOr<v1::Migration> FleetMove::StartOrJoin(size_t index, bool* joined) {
  v1::CreateMigrationRequest request = options_.request;
  request.set_vm(plan_.vms[index].vm);
  request.set_request_id(NewRequestId());
  Patience patience(options_);
  std::chrono::milliseconds backoff = options_.first_backoff;
  for (;;) {
    const absl::StatusOr<v1::Migration> created = client_->CreateMigration(request);
    if (created.ok()) return created;
    const absl::Status& error = created.status();
    if (ApiReasonOf(error) == "MIGRATION_IN_PROGRESS") {
      auto other = OneInTheWay(error);
      if (!other.ok()) return other.status();
      *joined = other->has_value();
      if (*joined) return **std::move(other);
    }
    if (patience.EndedWith(error)) return error;
    if (AnswerWasLost(error)) Note(absl::StrCat("looking for the daemon: ", error.message()));
    if (!Pause(backoff)) return AnswerWasLost(error) ? FindStarted(request) : NotStarted();
    backoff = std::min(backoff * 2, options_.last_backoff);
  }
}

// The migration that refused a request with `error`, if it will do in its place; nothing if the VM
// is about to be free or the daemon is away, which the next try tells; else the error that counts.
absl::StatusOr<std::optional<v1::Migration>> FleetMove::OneInTheWay(const absl::Status& error) {
  v1::GetMigrationRequest request;
  request.set_name(DetailsOf(error).resource.resource_name());
  absl::StatusOr<v1::Migration> other = client_->GetMigration(request);
  if (!other.ok()) {
    const bool passing = AnswerWasLost(other.status()) || absl::IsNotFound(other.status());
    if (!passing) return error;
    return std::nullopt;
  }
  const std::string& profile = options_.request.target_profile();
  // Arrived, though by somebody else's doing: once is enough.
  if (HasArrived(*other, profile)) return *std::move(other);
  if (IsFinished(*other)) return std::nullopt;
  if (other->target_profile() != profile) return error;
  return *std::move(other);
}

// Nothing more is to be started, but a try may have worked: whether it has.
absl::StatusOr<v1::Migration> FleetMove::FindStarted(const v1::CreateMigrationRequest& request) {
  v1::ListMigrationsRequest list;
  list.set_filter(absl::StrCat("vm = \"", request.vm(), "\""));
  list.set_page_size(kRecent);
  const Clock::time_point begin = Clock::now();
  for (;;) {
    auto page = client_->ListMigrations(list);
    if (page.ok()) {
      for (v1::Migration& one : *page->mutable_migrations()) {
        if (one.request_id() == request.request_id()) return std::move(one);
      }
      return NotStarted();
    }
    if (!AnswerWasLost(page.status())) return page.status();
    if (Clock::now() - begin >= options_.give_up_after) return page.status();
    std::this_thread::sleep_for(options_.last_backoff);
  }
}

absl::StatusOr<v1::Migration> FleetMove::WatchToTheEnd(size_t index, v1::Migration migration) {
  WatchOptions watch;
  watch.on_update = [this, index](const v1::Migration& now) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      results_[index].migration = now;
    }
    Tell(&FleetObserver::Updated, index);
  };
  watch.on_broken = [this](const absl::Status& status) {
    Note(absl::StrCat("looking for the daemon: ", status.message()));
  };
  watch.give_up_after = options_.give_up_after;
  Clock::time_point lost_since = Clock::time_point::max();  // max: it is not lost
  for (;;) {
    watch.resume_revision = migration.revision();
    absl::StatusOr<v1::Migration> last = client_->WatchMigration(migration.name(), watch);
    if (last.ok() || !absl::IsResourceExhausted(last.status())) return last;
    // Every stream is taken by somebody. Asking now and then does as well.
    v1::GetMigrationRequest request;
    request.set_name(migration.name());
    last = client_->GetMigration(request);
    if (last.ok()) {
      if (IsFinished(*last)) return last;
      lost_since = Clock::time_point::max();
      watch.on_update(migration = *std::move(last));
    } else {
      if (!AnswerWasLost(last.status())) return last;
      const Clock::time_point now = Clock::now();
      lost_since = std::min(lost_since, now);
      if (now - lost_since >= options_.give_up_after) return last;
    }
    std::this_thread::sleep_for(options_.last_backoff);
  }
}

void FleetMove::Conclude(size_t index, const absl::StatusOr<v1::Migration>& last) {
  const bool dry_run = options_.request.validate_only();
  bool started = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    FleetResult& result = results_[index];
    if (last.ok()) result.migration = *last;
    if (IsNotStarted(last.status())) {
      result.kind = Kind::kNotStarted;
      started = false;
    } else if (last.ok() && last->state() == v1::Migration::SUCCEEDED) {
      result.kind = dry_run ? Kind::kMovable : Kind::kMoved;
    } else if (dry_run && last.ok() && result.joined) {
      result.kind = Kind::kMovable;
    } else {
      result.kind = Kind::kFailed;
      result.error = last.status();
      if (!options_.keep_going && !dry_run) {
        stopping_ = true;
        stopped_.notify_all();
      }
    }
  }
  if (started) Tell(&FleetObserver::Finished, index);
}

void FleetMove::Tell(void (FleetObserver::*what)(const FleetResult&), size_t index) {
  const std::lock_guard<std::mutex> order(observer_mutex_);
  noted_ = false;
  FleetResult result;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    result = results_[index];
  }
  (observer_->*what)(result);
}

// Everybody who waits loses the daemon at once; once is enough.
void FleetMove::Note(const std::string& text) {
  const std::lock_guard<std::mutex> order(observer_mutex_);
  if (!std::exchange(noted_, true)) observer_->Note(text);
}

}  // namespace rehome
