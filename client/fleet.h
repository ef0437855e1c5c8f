// SPDX-License-Identifier: Apache-2.0
//
// Moves many guests to one profile, some at a time, over the daemon's ordinary API (docs/fleet.md).
#ifndef REHOME_CLIENT_FLEET_H_
#define REHOME_CLIENT_FLEET_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/fleet_plan.h"
#include "client/migration_client.h"

namespace rehome {

struct FleetOptions {
  // What every request carries beside VM and id: profile, time-outs, fence; validate_only makes it
  // a dry run, in which nothing is waited for and no failure stops the others.
  v1::CreateMigrationRequest request;
  size_t concurrency = 4;  // at least 1
  bool keep_going = false;
  // How long to look for a daemon that is gone, full, or holds a VM for a migration that is over.
  std::chrono::milliseconds give_up_after = std::chrono::seconds(60);
  // How long a VM may be missing that was listed: VMMs come back to a restarted daemon one by one.
  std::chrono::milliseconds vm_patience = std::chrono::seconds(10);
  // Between two tries; doubled each time up to the second.
  std::chrono::milliseconds first_backoff{100};
  std::chrono::milliseconds last_backoff{1000};
};

struct FleetResult {
  enum class Kind {
    kNotStarted,
    kUnderWay,  // no result yet
    kMoved,
    kAlreadyThere,
    kMovable,  // the dry run's kMoved
    kFailed,
  };
  std::string vm;
  Kind kind = Kind::kNotStarted;
  bool joined = false;
  v1::Migration migration;  // as last seen; without a VM if there is none
  absl::Status error;       // of kFailed: why there is no migration, or no end of it
};

// Whether the failure is the migration's own, as its record says; else `error` says why.
bool HasRecord(const FleetResult& result);

// Hears what happens. Calls come one at a time, from several threads.
class FleetObserver {
 public:
  virtual ~FleetObserver() = default;
  // Once for each migration: again after one that a daemon's end cut short.
  virtual void Started(const FleetResult& vm) = 0;
  virtual void Updated(const FleetResult& vm) = 0;
  // Once for each VM that was started or has failed.
  virtual void Finished(const FleetResult& vm) = 0;
  // About the way, not about a VM: the daemon is being looked for.
  virtual void Note(const std::string& text) = 0;
};

// One run over one plan.
class FleetMove {
 public:
  // All must outlive the object.
  FleetMove(MigrationClient* client, const FleetPlan& plan, const FleetOptions& options,
            FleetObserver* observer);

  // Returns once nothing is under way any more: all are done, or a failure or StopStarting() has
  // kept the rest from being started. Call once.
  void Run();

  // Thread-safe, also during Run().
  void StopStarting();
  // One for each VM of the plan, in its order.
  std::vector<FleetResult> Results() const;

 private:
  void Work();
  bool TakeNext(size_t* index);
  void Move(size_t index);
  absl::StatusOr<v1::Migration> MoveOnce(size_t index, bool join);
  absl::StatusOr<v1::Migration> StartOrJoin(size_t index, bool* joined);
  absl::StatusOr<std::optional<v1::Migration>> OneInTheWay(const absl::Status& error);
  absl::StatusOr<v1::Migration> FindStarted(const v1::CreateMigrationRequest& request);
  absl::StatusOr<v1::Migration> WatchToTheEnd(size_t index, v1::Migration migration);
  void Conclude(size_t index, const absl::StatusOr<v1::Migration>& last);
  // Waits; false if StopStarting() was called before or meanwhile.
  bool Pause(std::chrono::milliseconds duration);
  bool stopping() const;
  void Tell(void (FleetObserver::*what)(const FleetResult&), size_t index);
  void Note(const std::string& text);

  MigrationClient* const client_;
  const FleetPlan& plan_;
  const FleetOptions options_;
  FleetObserver* const observer_;
  // Indices of what there is to do, those to join first.
  std::vector<size_t> work_;
  size_t joins_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable stopped_;
  // Guarded by mutex_.
  std::vector<FleetResult> results_;
  size_t next_ = 0;  // in work_
  bool stopping_ = false;
  // Serializes the observer; taken before mutex_.
  std::mutex observer_mutex_;
  bool noted_ = false;  // guarded by observer_mutex_
};

}  // namespace rehome

#endif  // REHOME_CLIENT_FLEET_H_
