// SPDX-License-Identifier: Apache-2.0
//
// A daemon with many virtual machines, for tests of what moves them all: admits one migration of
// each VM at a time, ends each as the test says, over a real UNIX socket. A migration ends once
// somebody watches or reads it, unless its VM is held.
#ifndef REHOME_CLIENT_TESTING_FAKE_FLEET_H_
#define REHOME_CLIENT_TESTING_FAKE_FLEET_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "grpcpp/server.h"
#include "rehome/v1/host.grpc.pb.h"
#include "rehome/v1/migration.grpc.pb.h"
#include "rehome/v1/virtual_machine.grpc.pb.h"

namespace rehome::testing {

// Thread-safe.
class FakeFleet {
 public:
  // Its host is SampleHost(), with profiles "vmm-2" and "vmm-3".
  explicit FakeFleet(const std::string& socket_path);
  ~FakeFleet();

  // vm-0, vm-1, ... each in a process of its own.
  void AddVms(int count);
  // The VMM is gone from the list; the VM's migrations are not.
  void Disconnect(const std::string& vm);

  // How the next migrations of a VM end, in this order; then SUCCEEDED. A record of
  // client/testing/sample_records.h, of which names, profile and processes are replaced.
  void EndWith(const std::string& vm, const std::vector<v1::Migration>& ends);
  // Migrations of the VM do not end before Release(); "" in both means every VM.
  void Hold(const std::string& vm);
  void Release(const std::string& vm);
  // From now on lists of VMs, or dry runs, are answered only when the fleet goes away.
  enum class Call { kList, kCheck };
  void HoldCalls(Call call);
  // Waits until so many are held. False after 10 s.
  bool AwaitHeldCalls(Call call, size_t count);
  // Waits until so many migrations are under way. False after 10 s.
  bool AwaitUnderWay(size_t count);
  // Waits until so many have been watched, which is after their requests were answered.
  bool AwaitWatched(size_t count);
  // As somebody else would; its id.
  std::string Start(const std::string& vm, const std::string& profile);

  // CreateMigration fails with these, in order, and starts nothing.
  void RefuseNext(const std::vector<grpc::Status>& errors);
  // WatchMigration fails with these.
  void RefuseWatches(const std::vector<grpc::Status>& errors);
  // From now on every GetMigration fails so; OK ends it.
  void FailReads(const grpc::Status& error);
  // The VM is held by this migration for good, whatever has become of it.
  void StayTaken(const std::string& vm, const std::string& migration_id);
  // The next one starts, and its answer is lost.
  void LoseNextAnswer();
  // Nobody listens until ComeBack(); what is under way stays.
  void GoAway();
  void ComeBack();

  // Requests that started something, and those that only checked.
  std::vector<v1::CreateMigrationRequest> started() const;
  std::vector<v1::CreateMigrationRequest> checked() const;
  // Calls of CreateMigration, refused ones included.
  size_t asked() const;
  // Migrations that were under way at the same time, at most.
  size_t most_at_once() const;

 private:
  class Migrations;
  class Vms;
  class Hosts;

  void Listen();
  // These REQUIRE mutex_.
  v1::Migration* Find(const std::string& name);
  v1::Migration& Admit(const v1::CreateMigrationRequest& request);
  v1::Migration EndOf(const v1::Migration& migration);
  bool IsHeld(const v1::Migration& migration) const;
  // Waits if such calls are held.
  void Hold(Call call, std::unique_lock<std::mutex>* lock);
  void Finish(v1::Migration* migration);

  const std::string socket_path_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::map<std::string, v1::VirtualMachine> vms_;
  std::deque<v1::Migration> migrations_;  // oldest first
  std::map<std::string, std::deque<v1::Migration>> ends_;
  std::set<std::string> held_;
  std::map<Call, size_t> held_calls_;  // how many wait, of those that are held
  std::deque<grpc::Status> refusals_, watch_refusals_;
  grpc::Status read_error_;
  bool lose_next_ = false;
  bool away_ = false;
  std::vector<v1::CreateMigrationRequest> started_, checked_;
  size_t asked_ = 0;
  size_t watched_ = 0;
  size_t under_way_ = 0;
  size_t most_at_once_ = 0;
  int next_pid_ = 1000;

  std::unique_ptr<Migrations> migration_service_;
  std::unique_ptr<Vms> vm_service_;
  std::unique_ptr<Hosts> host_service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace rehome::testing

#endif  // REHOME_CLIENT_TESTING_FAKE_FLEET_H_
