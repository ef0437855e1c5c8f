// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/testing/migration_caller.h"

#include <gtest/gtest.h>

namespace rehome::testing {

v1::CreateMigrationRequest MigrationCaller::RequestFor(const std::string& vm_id) {
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/" + vm_id);
  request.set_target_profile(kProfile);
  return request;
}

grpc::Status MigrationCaller::Create(const v1::CreateMigrationRequest& request,
                                     v1::Migration* migration) {
  grpc::ClientContext context;
  return stub_->CreateMigration(&context, request, migration);
}

v1::Migration MigrationCaller::MustCreate(const v1::CreateMigrationRequest& request) {
  v1::Migration migration;
  const grpc::Status status = Create(request, &migration);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return migration;
}

std::vector<v1::WatchMigrationResponse> MigrationCaller::Watch(const std::string& name,
                                                               int64_t resume_revision,
                                                               grpc::Status* status) {
  grpc::ClientContext context;
  v1::WatchMigrationRequest request;
  request.set_name(name);
  request.set_resume_revision(resume_revision);
  const auto stream = stub_->WatchMigration(&context, request);
  std::vector<v1::WatchMigrationResponse> all;
  v1::WatchMigrationResponse response;
  while (stream->Read(&response)) all.push_back(response);
  *status = stream->Finish();
  return all;
}

v1::Migration MigrationCaller::AwaitEnd(const std::string& name) {
  grpc::Status status;
  const auto all = Watch(name, 0, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return all.empty() ? v1::Migration() : all.back().migration();
}

grpc::Status MigrationCaller::List(const std::string& filter, int page_size,
                                   const std::string& page_token,
                                   v1::ListMigrationsResponse* response) {
  grpc::ClientContext context;
  v1::ListMigrationsRequest request;
  request.set_filter(filter);
  request.set_page_size(page_size);
  request.set_page_token(page_token);
  return stub_->ListMigrations(&context, request, response);
}

}  // namespace rehome::testing
