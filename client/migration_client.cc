// SPDX-License-Identifier: Apache-2.0
#include "client/migration_client.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "client/api_error.h"
#include "client/client_reasons.h"
#include "client/request_id.h"

namespace rehome {
namespace {

using Clock = std::chrono::steady_clock;

// Between two tries to take a broken stream up again.
constexpr std::chrono::milliseconds kWatchBackoff(200);

// Like `error`, but with the kernel's words if nobody answers at the socket.
absl::Status Explain(const absl::Status& error, const std::string& socket_path) {
  if (error.code() != absl::StatusCode::kUnavailable || !ApiReasonOf(error).empty()) return error;
  const absl::Status diagnosis = DiagnoseUnreachable(socket_path);
  if (!diagnosis.ok()) return diagnosis;
  return ClientError(absl::StatusCode::kUnavailable, client_reason::kDaemonUnreachable,
                     "lost the daemon at " + socket_path + ": " + std::string(error.message()));
}

// Calls `method` until it answers with anything but UNAVAILABLE, at most max_tries times.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> Call(const ClientOptions& options, Stub* stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request) {
  std::chrono::milliseconds backoff = options.first_backoff;
  for (int tries = 1;; ++tries) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + options.call_timeout);
    Response response;
    const absl::Status status = FromGrpcStatus((stub->*method)(&context, request, &response));
    if (status.ok()) return response;
    if (status.code() != absl::StatusCode::kUnavailable || tries >= options.max_tries) {
      return Explain(status, options.socket_path);
    }
    std::this_thread::sleep_for(backoff);
    backoff *= 2;
  }
}

// One watch, over as many streams as it takes.
class Watcher {
 public:
  Watcher(v1::MigrationService::Stub* stub, const std::string& name, const WatchOptions& options)
      : stub_(stub), options_(options), last_contact_(Clock::now()) {
    request_.set_name(name);
    request_.set_resume_revision(options.resume_revision);
    if (options.timeout.has_value()) ends_ = Clock::now() + *options.timeout;
  }

  absl::StatusOr<v1::Migration> Run() {
    while (true) {
      const absl::Status status = ReadStream();
      if (IsFinished(last_)) return last_;
      // gRPC's clock and ours may differ by a moment.
      if (status.code() == absl::StatusCode::kDeadlineExceeded || Clock::now() >= ends_) {
        return TimedOut();
      }
      // OK without a terminal record breaks the API's promise: as good as a broken stream. So is a
      // cancel without a word of the daemon's: a server that stops cancels the calls it has.
      const bool cut = absl::IsCancelled(status) && ApiReasonOf(status).empty();
      const bool broken = status.ok() || cut || status.code() == absl::StatusCode::kUnavailable;
      if (!broken) return status;
      if (Clock::now() - last_contact_ > options_.give_up_after) return status;
      if (options_.on_broken) options_.on_broken(status);
      std::this_thread::sleep_until(std::min(ends_, Clock::now() + kWatchBackoff));
    }
  }

 private:
  absl::Status ReadStream() {
    grpc::ClientContext context;
    if (ends_ != Clock::time_point::max()) {
      context.set_deadline(std::chrono::system_clock::now() + (ends_ - Clock::now()));
    }
    const auto stream = stub_->WatchMigration(&context, request_);
    v1::WatchMigrationResponse response;
    while (stream->Read(&response)) {
      last_contact_ = Clock::now();
      if (!response.has_migration()) continue;
      last_ = std::move(*response.mutable_migration());
      request_.set_resume_revision(last_.revision());
      if (options_.on_update) options_.on_update(last_);
    }
    return FromGrpcStatus(stream->Finish());
  }

  absl::Status TimedOut() const {
    return ClientError(absl::StatusCode::kDeadlineExceeded, client_reason::kWaitTimeout,
                       "stopped waiting for " + request_.name() + "; it goes on");
  }

  v1::MigrationService::Stub* const stub_;
  const WatchOptions& options_;
  v1::WatchMigrationRequest request_;
  v1::Migration last_;
  Clock::time_point last_contact_;
  Clock::time_point ends_ = Clock::time_point::max();
};

}  // namespace

bool IsFinished(const v1::Migration& migration) {
  return migration.state() == v1::Migration::SUCCEEDED ||
         migration.state() == v1::Migration::FAILED ||
         migration.state() == v1::Migration::CANCELLED ||
         migration.state() == v1::Migration::INDETERMINATE;
}

MigrationClient::MigrationClient(const ClientOptions& options)
    : options_(options),
      channel_(NewApiChannel(options.socket_path)),
      migrations_(v1::MigrationService::NewStub(channel_)),
      vms_(v1::VirtualMachineService::NewStub(channel_)),
      host_(v1::HostService::NewStub(channel_)) {}

absl::StatusOr<v1::Migration> MigrationClient::CreateMigration(v1::CreateMigrationRequest request) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  return Call(options_, migrations_.get(), &v1::MigrationService::Stub::CreateMigration, request);
}

absl::StatusOr<v1::Migration> MigrationClient::GetMigration(
    const v1::GetMigrationRequest& request) {
  return Call(options_, migrations_.get(), &v1::MigrationService::Stub::GetMigration, request);
}

absl::StatusOr<v1::ListMigrationsResponse> MigrationClient::ListMigrations(
    const v1::ListMigrationsRequest& request) {
  return Call(options_, migrations_.get(), &v1::MigrationService::Stub::ListMigrations, request);
}

absl::StatusOr<v1::Migration> MigrationClient::CancelMigration(
    const v1::CancelMigrationRequest& request) {
  return Call(options_, migrations_.get(), &v1::MigrationService::Stub::CancelMigration, request);
}

absl::StatusOr<v1::Migration> MigrationClient::ResolveMigration(
    const v1::ResolveMigrationRequest& request) {
  ClientOptions once = options_;
  once.max_tries = 1;
  return Call(once, migrations_.get(), &v1::MigrationService::Stub::ResolveMigration, request);
}

absl::StatusOr<v1::MigrationTrace> MigrationClient::GetMigrationTrace(
    const v1::GetMigrationTraceRequest& request) {
  return Call(options_, migrations_.get(), &v1::MigrationService::Stub::GetMigrationTrace, request);
}

absl::StatusOr<v1::Migration> MigrationClient::WatchMigration(const std::string& name,
                                                              const WatchOptions& options) {
  absl::StatusOr<v1::Migration> last = Watcher(migrations_.get(), name, options).Run();
  if (!last.ok()) return Explain(last.status(), options_.socket_path);
  return last;
}

absl::StatusOr<v1::VirtualMachine> MigrationClient::GetVirtualMachine(
    const v1::GetVirtualMachineRequest& request) {
  return Call(options_, vms_.get(), &v1::VirtualMachineService::Stub::GetVirtualMachine, request);
}

absl::StatusOr<v1::ListVirtualMachinesResponse> MigrationClient::ListVirtualMachines(
    const v1::ListVirtualMachinesRequest& request) {
  return Call(options_, vms_.get(), &v1::VirtualMachineService::Stub::ListVirtualMachines, request);
}

absl::StatusOr<v1::Host> MigrationClient::GetHost() {
  return Call(options_, host_.get(), &v1::HostService::Stub::GetHost, v1::GetHostRequest());
}

}  // namespace rehome
