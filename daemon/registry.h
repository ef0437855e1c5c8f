// SPDX-License-Identifier: Apache-2.0
//
// All migrations of this daemon: admission, idempotency, one per VM, watching, cancelling. Owns the
// driver threads.
#ifndef REHOME_DAEMON_REGISTRY_H_
#define REHOME_DAEMON_REGISTRY_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/effects.h"
#include "daemon/journal.h"
#include "daemon/migration.h"
#include "daemon/vm_directory.h"

namespace rehome {

// Threads that drive migrations at once; each pauses a guest, and two cores' worth of page-table
// teardown is what a host can hide. Configurable up to kMaxConcurrent.
inline constexpr size_t kDefaultConcurrent = 8;
inline constexpr size_t kMaxConcurrent = 64;
// Migrations admitted and waiting for a thread.
inline constexpr size_t kMaxPending = 256;

struct MigrationFilter {
  std::string vm_id;                    // "" = all
  std::optional<MigrationState> state;
};

// Thread-safe.
class Registry {
 public:
  struct Options {
    size_t concurrent = kDefaultConcurrent;
  };
  static absl::StatusOr<std::unique_ptr<Registry>> Create(Options options, Journal* journal,
                                                          VmDirectory* vms, EffectsFactory* effects);
  // Stops admitting, raises every interrupt, waits for the drivers.
  ~Registry();

  // Admits, or returns the earlier migration of the same request_id. With validate_only: runs the
  // preflight here and returns an unrecorded Migration (id ""), state SUCCEEDED or FAILED of the
  // *check*. Errors: NOT_FOUND / VM_NOT_FOUND, NOT_FOUND / PROFILE_NOT_FOUND, INVALID_ARGUMENT /
  // REQUEST_ID_REUSED (other parameters), ABORTED / MIGRATION_IN_PROGRESS (message names the other),
  // RESOURCE_EXHAUSTED / QUEUE_FULL, UNAVAILABLE / SHUTTING_DOWN, JOURNAL_* from the journal.
  absl::StatusOr<Migration> Create(const MigrationRequest& request);

  absl::StatusOr<Migration> Get(const std::string& id) const;  // NOT_FOUND / MIGRATION_NOT_FOUND
  // Newest first; at most `limit` after skipping those not older than `after_id` ("" = from the
  // start). *more says whether there are further ones.
  std::vector<Migration> List(const MigrationFilter& filter, size_t limit,
                              const std::string& after_id, bool* more) const;
  // Blocks until the migration's revision > seen, or the timeout; returns its record then.
  absl::StatusOr<Migration> WaitForChange(const std::string& id, uint64_t seen_revision,
                                          std::chrono::milliseconds timeout) const;
  // Asks for a cancel. OK: it will end CANCELLED, or SUCCEEDED if the target was faster (the record
  // says which). FAILED_PRECONDITION / PAST_COMMIT or ALREADY_FINISHED.
  absl::StatusOr<Migration> Cancel(const std::string& id);
};

}  // namespace rehome

#endif  // REHOME_DAEMON_REGISTRY_H_
