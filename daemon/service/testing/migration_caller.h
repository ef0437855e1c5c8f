// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_SERVICE_TESTING_MIGRATION_CALLER_H_
#define REHOME_DAEMON_SERVICE_TESTING_MIGRATION_CALLER_H_

#include <memory>
#include <string>
#include <vector>

#include "daemon/service/testing/test_daemon.h"
#include "rehome/v1/migration.grpc.pb.h"

namespace rehome::testing {

// A client with a connection of its own. Not thread-safe.
class MigrationCaller {
 public:
  explicit MigrationCaller(const TestDaemon& daemon) : stub_(daemon.NewMigrationStub()) {}

  v1::MigrationService::Stub& stub() { return *stub_; }

  // A request for kProfile.
  static v1::CreateMigrationRequest RequestFor(const std::string& vm_id);

  grpc::Status Create(const v1::CreateMigrationRequest& request, v1::Migration* migration);
  // Fails the test on an error.
  v1::Migration MustCreate(const v1::CreateMigrationRequest& request);
  grpc::Status List(const std::string& filter, int page_size, const std::string& page_token,
                    v1::ListMigrationsResponse* response);
  // Everything that a watch sends, and how it ends.
  std::vector<v1::WatchMigrationResponse> Watch(const std::string& name, int64_t resume_revision,
                                                grpc::Status* status);
  // The terminal record. Fails the test if the watch ends otherwise.
  v1::Migration AwaitEnd(const std::string& name);

 private:
  const std::unique_ptr<v1::MigrationService::Stub> stub_;
};

}  // namespace rehome::testing

#endif  // REHOME_DAEMON_SERVICE_TESTING_MIGRATION_CALLER_H_
