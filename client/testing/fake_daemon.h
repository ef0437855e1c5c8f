// SPDX-License-Identifier: Apache-2.0
//
// A daemon for tests of the client: answers with what it is told to, over a real UNIX socket, and
// remembers what it was asked. Knows nothing of migrations.
#ifndef REHOME_CLIENT_TESTING_FAKE_DAEMON_H_
#define REHOME_CLIENT_TESTING_FAKE_DAEMON_H_

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grpcpp/server.h"
#include "rehome/v1/host.grpc.pb.h"
#include "rehome/v1/migration.grpc.pb.h"
#include "rehome/v1/virtual_machine.grpc.pb.h"

namespace rehome::testing {

// Thread-safe.
class FakeDaemon {
 public:
  explicit FakeDaemon(const std::string& socket_path);
  ~FakeDaemon();

  // What GetHost and the VM service answer.
  void SetHost(const v1::Host& host);
  void SetVms(const std::vector<v1::VirtualMachine>& vms);

  // The life of the one migration there is. CreateMigration answers with the first record, Get with
  // the one that is current, List with all of them (as if they were different migrations) or those
  // that are INDETERMINATE if the filter says so, Cancel with the last. Resolve makes the next one
  // current. A watch sends the current one and then those after it.
  void SetHistory(const std::vector<v1::Migration>& history);
  // A watch stops in front of this record until Proceed().
  void HoldBefore(size_t record);
  void Proceed();
  // Waits until a watch stands in front of the record of HoldBefore(). False after 10 s.
  bool AwaitHeld();
  // The next watch breaks with UNAVAILABLE after sending this record.
  void BreakWatchAfter(size_t record);

  // Calls that fail next, in this order, whatever is called; then all is well again.
  void FailNext(const std::vector<grpc::Status>& failures);

  // What was asked, failed calls included.
  std::vector<v1::CreateMigrationRequest> created() const;
  std::vector<v1::ListMigrationsRequest> listed() const;
  std::vector<v1::WatchMigrationRequest> watched() const;
  size_t cancelled() const;
  size_t resolved() const;

 private:
  class Migrations;
  class Vms;
  class Hosts;

  // The next failure, or OK.
  grpc::Status TakeFailure();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  v1::Host host_data_;
  std::vector<v1::VirtualMachine> vm_data_;
  std::vector<v1::Migration> history_;
  size_t current_ = 0;
  size_t hold_before_;
  size_t break_after_;
  bool held_ = false;
  bool stopping_ = false;
  std::vector<grpc::Status> failures_;
  std::vector<v1::CreateMigrationRequest> created_;
  std::vector<v1::ListMigrationsRequest> listed_;
  std::vector<v1::WatchMigrationRequest> watched_;
  size_t cancelled_ = 0;
  size_t resolved_ = 0;

  std::unique_ptr<Migrations> migrations_;
  std::unique_ptr<Vms> vms_;
  std::unique_ptr<Hosts> hosts_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace rehome::testing

#endif  // REHOME_CLIENT_TESTING_FAKE_DAEMON_H_
