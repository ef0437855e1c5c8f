// SPDX-License-Identifier: Apache-2.0
//
// The client library of rehomed: calls that are tried again when that is safe, and watching that
// survives a restart of the daemon.
#ifndef REHOME_CLIENT_MIGRATION_CLIENT_H_
#define REHOME_CLIENT_MIGRATION_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/channel.h"
#include "rehome/v1/host.grpc.pb.h"
#include "rehome/v1/migration.grpc.pb.h"
#include "rehome/v1/virtual_machine.grpc.pb.h"

namespace rehome {

// Whether the migration has ended (SUCCEEDED, FAILED, CANCELLED, INDETERMINATE).
bool IsFinished(const v1::Migration& migration);

struct ClientOptions {
  std::string socket_path = kDefaultApiSocket;
  // Of one try of one call. A dry run asks two VMMs, which may take seconds on a loaded host.
  std::chrono::milliseconds call_timeout = std::chrono::seconds(15);
  // Tries of a call that fails with UNAVAILABLE, and the wait before the second, doubled each time:
  // 100 + 200 ms by default, about what a restart of the daemon takes. 1: no second try.
  int max_tries = 3;
  std::chrono::milliseconds first_backoff{100};
};

struct WatchOptions {
  int64_t resume_revision = 0;  // what the caller knows already; 0 = nothing
  // Called with each revision that arrives, from the thread that watches.
  std::function<void(const v1::Migration&)> on_update;
  // Called when the stream breaks, before it is tried again.
  std::function<void(const absl::Status&)> on_broken;
  // How long to watch; none: to the end.
  std::optional<std::chrono::milliseconds> timeout;
  // How long to look for a daemon that is gone.
  std::chrono::milliseconds give_up_after = std::chrono::seconds(60);
};

// Thread-safe. Every method blocks its thread. Errors are the daemon's (DetailsOf() of api_error.h
// decodes them) or DAEMON_UNREACHABLE, PEER_NOT_ALLOWED, WAIT_TIMEOUT. Only UNAVAILABLE is tried
// again (AIP-194).
class MigrationClient {
 public:
  explicit MigrationClient(const ClientOptions& options);

  // Starts a migration. Puts a fresh request_id into a request that has none, the same in every
  // try, so that a try whose answer was lost does not start a second migration.
  absl::StatusOr<v1::Migration> CreateMigration(v1::CreateMigrationRequest request);
  absl::StatusOr<v1::Migration> GetMigration(const v1::GetMigrationRequest& request);
  absl::StatusOr<v1::ListMigrationsResponse> ListMigrations(
      const v1::ListMigrationsRequest& request);
  absl::StatusOr<v1::Migration> CancelMigration(const v1::CancelMigrationRequest& request);
  // Tried once: a try whose answer was lost may have worked, and a second one would be refused with
  // NOT_INDETERMINATE.
  absl::StatusOr<v1::Migration> ResolveMigration(const v1::ResolveMigrationRequest& request);

  absl::StatusOr<v1::MigrationTrace> GetMigrationTrace(const v1::GetMigrationTraceRequest& request);

  // Watches until the migration is finished and returns its last record. A broken stream is taken
  // up again at the last revision. DEADLINE_EXCEEDED / WAIT_TIMEOUT when `timeout` passes;
  // UNAVAILABLE / DAEMON_UNREACHABLE after `give_up_after` without a daemon. The migration goes on
  // in both cases.
  absl::StatusOr<v1::Migration> WatchMigration(const std::string& name,
                                               const WatchOptions& options);

  absl::StatusOr<v1::VirtualMachine> GetVirtualMachine(const v1::GetVirtualMachineRequest& request);
  absl::StatusOr<v1::ListVirtualMachinesResponse> ListVirtualMachines(
      const v1::ListVirtualMachinesRequest& request);

  absl::StatusOr<v1::Host> GetHost();

 private:
  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::MigrationService::Stub> migrations_;
  const std::unique_ptr<v1::VirtualMachineService::Stub> vms_;
  const std::unique_ptr<v1::HostService::Stub> host_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_MIGRATION_CLIENT_H_
