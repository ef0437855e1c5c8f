// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/testing/test_daemon.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <cstdlib>
#include <iostream>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome::testing {
namespace {

// A broken fixture is no result of a test.
[[noreturn]] void Die(const absl::Status& status) {
  std::cerr << "the test daemon does not start: " << status << "\n";
  std::abort();
}

absl::Status CheckProfile(const std::string& profile) {
  if (profile == kProfile) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kNotFound, reason::kProfileNotFound, "no profile " + profile);
}

HostFacts SampleFacts() {
  HostFacts facts;
  facts.boot_id = "this-boot";
  facts.start_time_unix_ns = 1'700'000'000'000'000'000;
  facts.capabilities.backend = "sim";
  facts.capabilities.kernel_release = "6.18.5";
  facts.capabilities.capabilities = {
      {.name = "kvm", .available = true},
      {.name = "guest_memfd_link", .reason = "LINK_UNSUPPORTED", .detail = "ioctl 0xd6: ENOTTY"}};
  facts.profiles = {{.name = kProfile, .command = {"/bin/secret"}, .reads_state_formats = {1, 2}}};
  facts.concurrent_migrations = 8;
  facts.default_handover_timeout = std::chrono::milliseconds(500);
  facts.default_deadline = std::chrono::seconds(60);
  return facts;
}

}  // namespace

TestDaemon::TestDaemon(const Options& options)
    : peers_(options.max_connections),
      watches_(options.max_watch_streams, options.heartbeat_interval),
      vm_service_(&vms_, &watches_),
      host_service_(SampleFacts(), [] { return PinnedBytes{.finished = 4096}; }) {
  for (const Migration& record : options.earlier) {
    if (absl::Status status = journal_.Append(record); !status.ok()) Die(status);
  }
  auto registry =
      Registry::Create({.concurrent = 4, .boot_id = "this-boot", .check_profile = CheckProfile},
                       &journal_, &vms_, &effects_);
  if (!registry.ok()) Die(registry.status());
  registry_ = *std::move(registry);
  migration_service_ = std::make_unique<MigrationService>(registry_.get(), &peers_, &watches_);
  auto server = ApiServer::Start({.socket_path = socket_.path(), .allowed = options.allowed},
                                 {migration_service_.get(), &vm_service_, &host_service_}, &peers_,
                                 &watches_);
  if (!server.ok()) Die(server.status());
  server_ = *std::move(server);
}

std::shared_ptr<FakeVmmLink> TestDaemon::AddVm(const std::string& vm_id) {
  VmEntry vm;
  vm.vm_id = vm_id;
  vm.vcpu_count = 2;
  vm.memory_bytes = 64 << 20;
  vm.vmm = "rehome-vmm 1.0";
  vm.process = {.pid = 10, .start_ticks = 1};
  auto link = std::make_shared<FakeVmmLink>(vm.process);
  if (absl::Status status = vms_.Register(vm, "", link); !status.ok()) Die(status);
  return link;
}

std::shared_ptr<grpc::Channel> TestDaemon::NewChannel() const {
  grpc::ChannelArguments arguments;
  // Channels to one address share a connection otherwise.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel("unix:" + socket_.path(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::unique_ptr<v1::MigrationService::Stub> TestDaemon::NewMigrationStub() const {
  return v1::MigrationService::NewStub(NewChannel());
}

std::unique_ptr<v1::VirtualMachineService::Stub> TestDaemon::NewVmStub() const {
  return v1::VirtualMachineService::NewStub(NewChannel());
}

ErrorDetails DetailsOf(const google::rpc::Status& status) {
  ErrorDetails found;
  for (const auto& detail : status.details()) {
    if (detail.UnpackTo(&found.info) || detail.UnpackTo(&found.bad_request) ||
        detail.UnpackTo(&found.preconditions) || detail.UnpackTo(&found.resource) ||
        detail.UnpackTo(&found.retry)) {
      ++found.count;
    }
  }
  return found;
}

ErrorDetails DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return {};
  if (details.code() != status.error_code()) return {};
  return DetailsOf(details);
}

}  // namespace rehome::testing
