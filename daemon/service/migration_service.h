// SPDX-License-Identifier: Apache-2.0
//
// rehome.v1.MigrationService: checks the form of a request, calls the registry once, translates the
// answer. Decides nothing.
#ifndef REHOME_DAEMON_SERVICE_MIGRATION_SERVICE_H_
#define REHOME_DAEMON_SERVICE_MIGRATION_SERVICE_H_

#include "daemon/registry.h"
#include "daemon/service/peer_table.h"
#include "daemon/service/watch_gate.h"
#include "rehome/v1/migration.grpc.pb.h"

namespace rehome {

// Thread-safe. Borrows everything it is given.
class MigrationService final : public v1::MigrationService::Service {
 public:
  MigrationService(Registry* registry, const PeerTable* peers, WatchGate* watches)
      : registry_(registry), peers_(peers), watches_(watches) {}

  grpc::Status CreateMigration(grpc::ServerContext* context,
                               const v1::CreateMigrationRequest* request,
                               v1::Migration* response) override;
  grpc::Status GetMigration(grpc::ServerContext* context, const v1::GetMigrationRequest* request,
                            v1::Migration* response) override;
  grpc::Status ListMigrations(grpc::ServerContext* context,
                              const v1::ListMigrationsRequest* request,
                              v1::ListMigrationsResponse* response) override;
  grpc::Status WatchMigration(grpc::ServerContext* context,
                              const v1::WatchMigrationRequest* request,
                              grpc::ServerWriter<v1::WatchMigrationResponse>* writer) override;
  grpc::Status CancelMigration(grpc::ServerContext* context,
                               const v1::CancelMigrationRequest* request,
                               v1::Migration* response) override;
  grpc::Status ResolveMigration(grpc::ServerContext* context,
                                const v1::ResolveMigrationRequest* request,
                                v1::Migration* response) override;
  grpc::Status GetMigrationTrace(grpc::ServerContext* context,
                                 const v1::GetMigrationTraceRequest* request,
                                 v1::MigrationTrace* response) override;

 private:
  // Adds to an error of Registry::Create() the resource that it is about.
  grpc::Status ExplainCreateError(const absl::Status& error, const MigrationRequest& request) const;

  Registry* const registry_;
  const PeerTable* const peers_;
  WatchGate* const watches_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_MIGRATION_SERVICE_H_
