// SPDX-License-Identifier: Apache-2.0
//
// A daemon without VMMs: the real services, registry and directory behind the real socket, with
// effects that say what the test wants.
#ifndef REHOME_DAEMON_SERVICE_TESTING_TEST_DAEMON_H_
#define REHOME_DAEMON_SERVICE_TESTING_TEST_DAEMON_H_

#include <memory>
#include <string>
#include <vector>

#include "client/testing/temp_socket.h"
#include "daemon/peer_policy.h"
#include "daemon/registry.h"
#include "daemon/service/api_server.h"
#include "daemon/service/host_service.h"
#include "daemon/service/migration_service.h"
#include "daemon/service/peer_table.h"
#include "daemon/service/vm_service.h"
#include "daemon/service/watch_gate.h"
#include "daemon/testing/fake_effects.h"
#include "daemon/testing/fake_vmm_link.h"
#include "daemon/testing/memory_journal.h"
#include "daemon/vm_directory.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/channel.h"
#include "rehome/v1/host.grpc.pb.h"
#include "rehome/v1/migration.grpc.pb.h"
#include "rehome/v1/virtual_machine.grpc.pb.h"

namespace rehome::testing {

// The profile that exists; every other one is PROFILE_NOT_FOUND.
inline constexpr char kProfile[] = "vmm-2";

// Used by one thread, except where its parts say otherwise.
class TestDaemon {
 public:
  struct Options {
    size_t max_watch_streams = kMaxWatchStreams;
    std::chrono::milliseconds heartbeat_interval = kHeartbeatInterval;
    size_t max_connections = kMaxApiConnections;
    // Who may connect; the user that runs the test, unless told otherwise.
    PeerPolicy allowed = {.uids = {geteuid()}, .gids = {}};
    // What an earlier daemon left. Not taken up: the registry stays RECOVERING if one is
    // unfinished.
    std::vector<Migration> earlier;
  };
  explicit TestDaemon(const Options& options);
  TestDaemon() : TestDaemon(Options{}) {}

  // A VM in the directory; the link is its VMM.
  std::shared_ptr<FakeVmmLink> AddVm(const std::string& vm_id);

  // A channel of its own, so that two of them are two connections.
  std::shared_ptr<grpc::Channel> NewChannel() const;
  std::unique_ptr<v1::MigrationService::Stub> NewMigrationStub() const;
  std::unique_ptr<v1::VirtualMachineService::Stub> NewVmStub() const;

  std::string socket_path() const { return socket_.path(); }
  VmDirectory& vms() { return vms_; }
  FakeEffects& effects() { return effects_; }
  Registry& registry() { return *registry_; }
  PeerTable& peers() { return peers_; }
  ApiServer& server() { return *server_; }

 private:
  const TempSocket socket_;
  VmDirectory vms_;
  FakeEffects effects_;
  MemoryJournal journal_;
  std::unique_ptr<Registry> registry_;
  PeerTable peers_;
  WatchGate watches_;
  std::unique_ptr<MigrationService> migration_service_;
  VmService vm_service_;
  HostService host_service_;
  // The last member: its handlers use the others.
  std::unique_ptr<ApiServer> server_;
};

// The details in the trailer of a failed call; what is missing is empty.
struct ErrorDetails {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::PreconditionFailure preconditions;
  google::rpc::ResourceInfo resource;
  google::rpc::RetryInfo retry;
  size_t count = 0;
};
ErrorDetails DetailsOf(const google::rpc::Status& status);
ErrorDetails DetailsOf(const grpc::Status& status);

}  // namespace rehome::testing

#endif  // REHOME_DAEMON_SERVICE_TESTING_TEST_DAEMON_H_
