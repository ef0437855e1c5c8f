// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/api_server.h"

#include <gmock/gmock.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/service/testing/test_daemon.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::DetailsOf;
using ::testing::HasSubstr;
using testing::kProfile;
using testing::TestDaemon;

constexpr std::chrono::seconds kPatience(20);

// A connection that speaks no HTTP/2.
UniqueFd Connect(const std::string& path) {
  UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  EXPECT_EQ(
      connect(connection.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
      << std::strerror(errno);
  return connection;
}

// Whether the other end hangs up without a word.
bool IsRefused(const UniqueFd& connection) {
  pollfd wait{connection.borrow().raw(), POLLIN, 0};
  if (poll(&wait, 1, std::chrono::milliseconds(kPatience).count()) != 1) return false;
  char byte;
  return recv(connection.borrow().raw(), &byte, 1, 0) <= 0;
}

grpc::Status GetHost(const std::shared_ptr<grpc::Channel>& channel, v1::Host* host) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  return v1::HostService::NewStub(channel)->GetHost(&context, v1::GetHostRequest(), host);
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& part : slices) {
    bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return bytes;
}

// grpc.health.v1 by hand: message HealthCheckResponse { ServingStatus status = 1; }, and a request
// with field 1, the service's name.
std::string HealthOf(TestDaemon& daemon, const std::string& service) {
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  std::string wire;
  if (!service.empty()) wire = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(wire);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::GenericStub stub(daemon.NewChannel());
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return status.error_message();
  const std::string bytes = Bytes(response);
  if (bytes == "\x08\x01") return "SERVING";
  if (bytes == "\x08\x02") return "NOT_SERVING";
  return "unexpected answer";
}

TEST(ApiServerTest, HealthIsNotServingUntilTheDaemonIsReady) {
  TestDaemon daemon;
  EXPECT_EQ(HealthOf(daemon, ""), "NOT_SERVING");
  EXPECT_EQ(HealthOf(daemon, "rehome.v1.MigrationService"), "NOT_SERVING");
  daemon.server().SetServing(true);
  for (const char* service : {"", "rehome.v1.MigrationService", "rehome.v1.VirtualMachineService",
                              "rehome.v1.HostService"}) {
    EXPECT_EQ(HealthOf(daemon, service), "SERVING") << service;
  }
}

TEST(ApiServerTest, ReflectionNamesTheServices) {
  TestDaemon daemon;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(daemon.NewChannel());
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  ASSERT_TRUE(done());
  // ServerReflectionRequest{list_services: "*"}.
  const grpc::Slice request("\x3a\x01*");
  call->Write(grpc::ByteBuffer(&request, 1), nullptr);
  ASSERT_TRUE(done());
  grpc::ByteBuffer response;
  call->Read(&response, nullptr);
  ASSERT_TRUE(done());
  const std::string names = Bytes(response);
  for (const char* service : {"rehome.v1.MigrationService", "rehome.v1.VirtualMachineService",
                              "rehome.v1.HostService", "grpc.health.v1.Health"}) {
    EXPECT_THAT(names, HasSubstr(service));
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  done();
}

TEST(ApiServerTest, ServesTheHostAndNotItsCommands) {
  TestDaemon daemon;
  v1::Host host;
  ASSERT_TRUE(GetHost(daemon.NewChannel(), &host).ok());
  EXPECT_EQ(host.name(), "host");
  EXPECT_EQ(host.capabilities(1).reason(), "LINK_UNSUPPORTED");
  EXPECT_EQ(host.vmm_profiles(0).name(), kProfile);
  EXPECT_EQ(host.limits().max_watch_streams(), static_cast<int>(kMaxWatchStreams));
  EXPECT_EQ(host.limits().default_deadline().seconds(), 60);
  EXPECT_EQ(host.pinned_memory().finished_bytes(), 4096);
  EXPECT_EQ(host.SerializeAsString().find("secret"), std::string::npos);
}

TEST(ApiServerTest, PeerThatIsNotOnTheListIsDisconnected) {
  TestDaemon daemon({.allowed = {.uids = {geteuid() + 1}, .gids = {}}});
  EXPECT_TRUE(IsRefused(Connect(daemon.socket_path())));
  v1::Host host;
  EXPECT_EQ(GetHost(daemon.NewChannel(), &host).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(ApiServerTest, PeerMayComeByItsGroup) {
  TestDaemon daemon({.allowed = {.uids = {}, .gids = {getegid()}}});
  v1::Host host;
  EXPECT_TRUE(GetHost(daemon.NewChannel(), &host).ok());
}

TEST(ApiServerTest, SocketIsForOwnerAndGroup) {
  TestDaemon daemon({.allowed = {.uids = {geteuid()}, .gids = {getegid()}}});
  struct stat found {};
  ASSERT_EQ(stat(daemon.socket_path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0660u);
  EXPECT_EQ(found.st_gid, getegid());
}

TEST(ApiServerTest, ConnectionsAreBounded) {
  TestDaemon daemon({.max_connections = 2});
  const UniqueFd first = Connect(daemon.socket_path());
  UniqueFd second = Connect(daemon.socket_path());
  EXPECT_TRUE(IsRefused(Connect(daemon.socket_path())));
  // Once one is closed there is room again; gRPC takes a moment to notice.
  second.Reset();
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  v1::Host host;
  while (!GetHost(daemon.NewChannel(), &host).ok()) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
  }
}

TEST(ApiServerTest, RequestsAreBounded) {
  TestDaemon daemon;
  v1::CreateMigrationRequest request;
  request.set_vm(std::string(kMaxRequestBytes, 'a'));
  v1::Migration ignored;
  grpc::ClientContext context;
  const grpc::Status status =
      daemon.NewMigrationStub()->CreateMigration(&context, request, &ignored);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ApiServerTest, WatchStreamsAreBounded) {
  TestDaemon daemon({.max_watch_streams = 1});
  const auto stub = daemon.NewVmStub();
  v1::WatchVirtualMachinesResponse response;
  std::optional<grpc::ClientContext> first(std::in_place);
  auto stream = stub->WatchVirtualMachines(&*first, v1::WatchVirtualMachinesRequest());
  ASSERT_TRUE(stream->Read(&response));
  {
    grpc::ClientContext second;
    const auto refused = stub->WatchVirtualMachines(&second, v1::WatchVirtualMachinesRequest());
    EXPECT_FALSE(refused->Read(&response));
    const grpc::Status status = refused->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(DetailsOf(status).info.reason(), "TOO_MANY_WATCHES");
    EXPECT_GT(DetailsOf(status).retry.retry_delay().seconds(), 0);
  }
  // The place of a client that left is free again.
  first->TryCancel();
  stream->Finish();
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  bool admitted = false;
  while (!admitted) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up);
    grpc::ClientContext next;
    const auto again = stub->WatchVirtualMachines(&next, v1::WatchVirtualMachinesRequest());
    admitted = again->Read(&response);
    next.TryCancel();
    again->Finish();
  }
}

TEST(ApiServerTest, StopEndsWatchesAndRemovesTheSocket) {
  TestDaemon daemon;
  const auto stub = daemon.NewVmStub();
  grpc::ClientContext context;
  const auto stream = stub->WatchVirtualMachines(&context, v1::WatchVirtualMachinesRequest());
  v1::WatchVirtualMachinesResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::thread stopper([&daemon] { daemon.server().Stop(); });
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  stopper.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).info.reason(), "SHUTTING_DOWN");
  struct stat found {};
  EXPECT_NE(lstat(daemon.socket_path().c_str(), &found), 0);
  daemon.server().Stop();
}

TEST(ApiServerTest, SecondDaemonIsToldThatTheSocketIsInUse) {
  TestDaemon daemon;
  PeerTable peers;
  WatchGate watches;
  const auto second = ApiServer::Start(
      {.socket_path = daemon.socket_path(), .allowed = {.uids = {geteuid()}, .gids = {}}}, {},
      &peers, &watches);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(second.status()), "SOCKET_IN_USE");
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(daemon.socket_path()));
  v1::Host host;
  EXPECT_TRUE(GetHost(daemon.NewChannel(), &host).ok()) << "the first one is not disturbed";
}

}  // namespace
}  // namespace rehome
