// SPDX-License-Identifier: Apache-2.0
//
// All migrations of this daemon: admission, idempotency, one per VM, watching, cancelling. Owns the
// driver threads.
#ifndef REHOME_DAEMON_REGISTRY_H_
#define REHOME_DAEMON_REGISTRY_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/deadline_timer.h"
#include "daemon/effects.h"
#include "daemon/journal.h"
#include "daemon/migration.h"
#include "daemon/migration_index.h"
#include "daemon/vm_directory.h"

namespace rehome {

// Threads that drive migrations at once; each pauses a guest, and two cores' worth of page-table
// teardown is what a host can hide. Configurable up to kMaxConcurrent.
inline constexpr size_t kDefaultConcurrent = 8;
inline constexpr size_t kMaxConcurrent = 64;
// Migrations admitted and waiting for a thread.
inline constexpr size_t kMaxPending = 256;
// Of a request_id; a UUID has 36.
inline constexpr size_t kMaxRequestIdBytes = 128;

struct MigrationFilter {
  std::string vm_id;  // "" = all
  std::optional<MigrationState> state;
};

// Thread-safe.
class Registry {
 public:
  struct Options {
    size_t concurrent = kDefaultConcurrent;
    size_t max_finished = kMaxFinishedMigrations;  // as the journal's
    std::string boot_id;                           // "" = the host's
    // Of a migration whose request names none.
    std::chrono::milliseconds default_deadline = kDefaultDeadline;
    // OK if a target may be started from the profile; else the error that Create() returns,
    // NOT_FOUND / PROFILE_NOT_FOUND or what the launcher says. Null: any profile.
    std::function<absl::Status(const std::string& profile)> check_profile;
  };
  // Reads the journal. What was unfinished or INDETERMINATE when the earlier daemon ended is taken
  // over: its VM is reserved in `vms`, and StartRecovery() goes on with it; what is of another boot
  // ends here (CloseAfterReboot(), machine.h). Starts no thread. Errors: those of Journal::Load(),
  // BOOT_ID_UNREADABLE, INVALID_ARGUMENT / BAD_CONFIGURATION.
  static absl::StatusOr<std::unique_ptr<Registry>> Create(Options options, Journal* journal,
                                                          VmDirectory* vms,
                                                          EffectsFactory* effects);
  ~Registry();

  // Drives what was taken over, once agents can connect. Call once. Until IsRecovered() nothing new
  // is admitted. RESOURCE_EXHAUSTED / THREAD_LIMIT.
  absl::Status StartRecovery();
  // Every migration that was taken over has left step RECOVERING: how each stands is known, or
  // known to be unknown.
  bool IsRecovered() const;
  // Blocks until then, or until Stop() is called, which is when it returns false.
  bool AwaitRecovered() const;
  // Migrations of this boot that were not finished for good, now; for the escrow that came back.
  std::set<std::string> Unfinished() const;

  // Stops admitting (SHUTTING_DOWN), raises every interrupt and waits until all migrations have
  // ended or are INDETERMINATE; of those the escrow is dropped with the registry, but stays in the
  // store. Reading and watching go on working. Idempotent; the destructor does it too.
  void Stop();

  // Admits, or returns the earlier migration of the same request_id (as long as that is kept; who
  // asks is no parameter). With validate_only: runs the preflight here and returns an unrecorded
  // Migration (id ""), state SUCCEEDED or FAILED of the *check*; the effects see a record with
  // request.validate_only and an id that is used nowhere else, and must leave no trace (DESCRIBE
  // without hold). Errors: NOT_FOUND / VM_NOT_FOUND, NOT_FOUND / PROFILE_NOT_FOUND,
  // INVALID_ARGUMENT / REQUEST_ID_REUSED (other parameters), BAD_REQUEST_ID, BAD_DEADLINE, ABORTED
  // / MIGRATION_IN_PROGRESS (message names the other), FAILED_PRECONDITION / MIGRATION_UNRESOLVED
  // (an INDETERMINATE one of that VM, named), UNAVAILABLE / RECOVERING, RESOURCE_EXHAUSTED /
  // QUEUE_FULL, FD_LIMIT or THREAD_LIMIT, UNAVAILABLE / SHUTTING_DOWN, JOURNAL_* from the journal.
  // After an error nothing of the request is left.
  absl::StatusOr<Migration> Create(const MigrationRequest& request);

  // A terminal state is shown only once the migration's effects, and so everything that it held,
  // are gone and the VM is free for the next. NOT_FOUND / MIGRATION_NOT_FOUND; JOURNAL_* if a
  // finished one cannot be read.
  absl::StatusOr<Migration> Get(const std::string& id) const;
  // NOT_FOUND / TRACE_NOT_FOUND; JOURNAL_* if it cannot be read.
  absl::StatusOr<MigrationTrace> Trace(const std::string& id) const {
    return journal_->ReadTrace(id);
  }
  // Newest first; at most `limit` after skipping those not older than `after_id` ("" = from the
  // start). *more says whether there are further ones. JOURNAL_* as above.
  absl::StatusOr<std::vector<Migration>> List(const MigrationFilter& filter, size_t limit,
                                              const std::string& after_id, bool* more) const;
  // Blocks until the migration's revision > seen, or the timeout; returns its record then. A
  // finished one is returned at once: it will not change.
  absl::StatusOr<Migration> WaitForChange(const std::string& id, uint64_t seen_revision,
                                          std::chrono::milliseconds timeout) const;
  // Asks for a cancel. OK: it will end CANCELLED, or SUCCEEDED if the target was faster, or FAILED
  // if it was failing already (the record says which). One that has no thread yet ends here and
  // now. FAILED_PRECONDITION / PAST_COMMIT or ALREADY_FINISHED.
  absl::StatusOr<Migration> Cancel(const std::string& id);
  // Finds out again how an INDETERMINATE one stands, and goes on from there; its record, which is
  // INDETERMINATE no more. NOT_FOUND / MIGRATION_NOT_FOUND, FAILED_PRECONDITION /
  // NOT_INDETERMINATE, UNAVAILABLE / RECOVERING (it is being looked at already) or SHUTTING_DOWN,
  // RESOURCE_EXHAUSTED / THREAD_LIMIT.
  absl::StatusOr<Migration> Resolve(const std::string& id);

 private:
  using Active = std::shared_ptr<ActiveMigration>;

  Registry(Options options, Journal* journal, VmDirectory* vms, EffectsFactory* effects);
  absl::Status LoadJournal();
  void Close(Migration closed);
  void TakeOver(const Active& active);

  // Steps of Create().
  absl::StatusOr<Migration> Validate(const MigrationRequest& request);
  absl::StatusOr<std::optional<Migration>> FindEarlier(const MigrationRequest& request) const;
  absl::StatusOr<VmEntry> CheckAdmission(const MigrationRequest& request) const;
  absl::StatusOr<Migration> Admit(const MigrationRequest& request, const VmEntry& vm);
  absl::Status EnsureWorker();
  Migration NewRecord(const MigrationRequest& request, const VmEntry& vm) const;

  void Work();
  Migration Run(const Active& active);
  void RunHere(const Active& active);  // Run() and Finish(), on the caller's thread
  void Publish(const Active& active, Migration record);
  void Expire(const std::string& id);
  // These REQUIRE mutex_. RaiseInterrupt() leaves alone what is past stopping. TakeFromQueue() is
  // true if it was waiting there: the caller now has to RunHere().
  void Finish(const Active& active, const Migration& last);
  void NoteRecovered(const Active& active);
  void RaiseInterrupt(const Active& active, StopCause cause);
  bool TakeFromQueue(const Active& active);

  const Options options_;
  Journal* const journal_;
  VmDirectory* const vms_;
  EffectsFactory* const effects_;

  // Held for the whole of an admission, journal included, so that two requests cannot both find the
  // VM free; taken before mutex_. The rest goes on meanwhile.
  mutable std::mutex admission_mutex_;
  // Guards all below; never held while the journal or an effect is at work.
  mutable std::mutex mutex_;
  MigrationIndex index_;
  std::map<std::string, Active> active_by_vm_;
  size_t unended_ = 0;                 // of them: queued or driven, not INDETERMINATE
  std::condition_variable all_ended_;  // unended_ is 0
  size_t recovering_ = 0;
  mutable std::condition_variable recovered_;  // recovering_ is 0, or stopping_
  std::deque<Active> queue_;
  std::condition_variable work_;  // the queue has one, or stopping_
  std::vector<std::thread> workers_;
  size_t busy_workers_ = 0;
  bool stopping_ = false;
  DeadlineTimer deadlines_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_REGISTRY_H_
