// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/migration_service.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "daemon/reasons.h"
#include "daemon/service/create_request.h"
#include "daemon/service/migration_filter.h"
#include "daemon/service/page_token.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/status_details.h"
#include "daemon/service/translate.h"
#include "daemon/service/translate_trace.h"
#include "kvmglue/status_reason.h"
#include "spdlog/spdlog.h"

namespace rehome {
namespace {

// ListMigrationsRequest.page_size says these numbers. A migration is 1 to 3 KiB.
constexpr size_t kDefaultMigrationPage = 50;
constexpr size_t kMaxMigrationPage = 500;
constexpr std::string_view kListMethod = "ListMigrations";

ErrorContext AboutMigration(const std::string& id) {
  return ErrorContext{.metadata = {{"migration", id}},
                      .resource_type = std::string(kMigrationType),
                      .resource_name = MigrationName(id)};
}

// Who did what to which guest, for the log that an auditor reads.
void Audit(const char* act, const std::string& caller, const std::string& subject,
           const absl::Status& result) {
  spdlog::info("audit: {} {} by {}: {}", act, subject, caller,
               result.ok() ? "OK" : ReasonOf(result));
}

// One watch stream: what it has sent and when.
class MigrationStream {
 public:
  MigrationStream(int64_t resume_revision, std::chrono::milliseconds heartbeat_interval,
                  grpc::ServerWriter<v1::WatchMigrationResponse>* writer)
      : seen_(static_cast<uint64_t>(resume_revision < 0 ? 0 : resume_revision)),
        heartbeat_interval_(heartbeat_interval),
        writer_(writer) {}

  uint64_t seen() const { return seen_; }

  // Sends `migration`, a heartbeat, or nothing if neither is due. False: the client is gone.
  bool Report(const Migration& migration) {
    const auto now = std::chrono::steady_clock::now();
    const bool first = std::exchange(first_, false);
    // A client that resumes may know a later revision than the journal does, after a crash with a
    // full disk; it gets what is true now.
    const bool news = migration.revision > seen_ || (first && migration.revision != seen_);
    v1::WatchMigrationResponse response;
    if (news || IsTerminal(migration.state)) {
      *response.mutable_migration() = ToProto(migration);
      seen_ = migration.revision;
    } else if (first || now - last_sent_ >= heartbeat_interval_) {
      response.mutable_heartbeat()->set_revision(static_cast<int64_t>(migration.revision));
    } else {
      return true;
    }
    last_sent_ = now;
    return writer_->Write(response);
  }

 private:
  uint64_t seen_;
  const std::chrono::milliseconds heartbeat_interval_;
  grpc::ServerWriter<v1::WatchMigrationResponse>* const writer_;
  bool first_ = true;
  std::chrono::steady_clock::time_point last_sent_;
};

}  // namespace

grpc::Status MigrationService::CreateMigration(grpc::ServerContext* context,
                                               const v1::CreateMigrationRequest* request,
                                               v1::Migration* response) {
  const std::string caller = peers_->Describe(context->peer());
  const absl::StatusOr<MigrationRequest> parsed = ParseCreateRequest(*request, caller);
  if (!parsed.ok()) return ToGrpcStatus(parsed.status());
  const absl::StatusOr<Migration> created = registry_->Create(*parsed);
  Audit(parsed->validate_only ? "validate" : "migrate", caller, parsed->vm_id, created.status());
  if (!created.ok()) return ExplainCreateError(created.status(), *parsed);
  *response = ToProto(*created);
  return grpc::Status::OK;
}

grpc::Status MigrationService::ExplainCreateError(const absl::Status& error,
                                                  const MigrationRequest& request) const {
  const std::string reason = ReasonOf(error);
  ErrorContext context{.metadata = {{"vm", request.vm_id}}};
  if (reason == reason::kVmNotFound) {
    context.resource_type = kVmResourceType;
    context.resource_name = VmName(request.vm_id);
  } else if (reason == reason::kProfileNotFound) {
    context.metadata["profile"] = request.target_profile;
    context.resource_type = kVmmProfileType;
    context.resource_name = request.target_profile;
  } else if (reason == reason::kMigrationInProgress || reason == reason::kMigrationUnresolved) {
    // The newest of the VM: the one in the way, or, if that has ended meanwhile, its record. One
    // that is unresolved lets no newer one in.
    bool more = false;
    const absl::StatusOr<std::vector<Migration>> others =
        registry_->List(MigrationFilter{.vm_id = request.vm_id}, 1, "", &more);
    if (others.ok() && !others->empty()) {
      const std::map<std::string, std::string> vm = std::exchange(context.metadata, {});
      context = AboutMigration(others->front().id);
      context.metadata.insert(vm.begin(), vm.end());
    }
  }
  return ToGrpcStatus(error, context);
}

grpc::Status MigrationService::GetMigration(grpc::ServerContext* /*context*/,
                                            const v1::GetMigrationRequest* request,
                                            v1::Migration* response) {
  const absl::StatusOr<std::string> id = ParseMigrationName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<Migration> migration = registry_->Get(*id);
  if (!migration.ok()) return ToGrpcStatus(migration.status(), AboutMigration(*id));
  *response = ToProto(*migration);
  return grpc::Status::OK;
}

grpc::Status MigrationService::ListMigrations(grpc::ServerContext* /*context*/,
                                              const v1::ListMigrationsRequest* request,
                                              v1::ListMigrationsResponse* response) {
  const absl::StatusOr<size_t> size =
      ParsePageSize(request->page_size(), kDefaultMigrationPage, kMaxMigrationPage);
  if (!size.ok()) return ToGrpcStatus(size.status());
  const absl::StatusOr<MigrationFilter> filter = ParseMigrationFilter(request->filter());
  if (!filter.ok()) return ToGrpcStatus(filter.status());
  const absl::StatusOr<std::string> after =
      ParsePageToken(request->page_token(), kListMethod, request->filter());
  if (!after.ok()) return ToGrpcStatus(after.status());

  bool more = false;
  const absl::StatusOr<std::vector<Migration>> migrations =
      registry_->List(*filter, *size, *after, &more);
  if (!migrations.ok()) return ToGrpcStatus(migrations.status());
  std::string last_id;
  size_t bytes = 0;
  for (const Migration& migration : *migrations) {
    v1::Migration proto = ToProto(migration);
    bytes += proto.ByteSizeLong();
    if (bytes > kMaxPageBytes && !last_id.empty()) {
      more = true;
      break;
    }
    *response->add_migrations() = std::move(proto);
    last_id = migration.id;
  }
  if (more && !last_id.empty()) {
    response->set_next_page_token(MakePageToken(kListMethod, request->filter(), last_id));
  }
  return grpc::Status::OK;
}

grpc::Status MigrationService::WatchMigration(
    grpc::ServerContext* context, const v1::WatchMigrationRequest* request,
    grpc::ServerWriter<v1::WatchMigrationResponse>* writer) {
  const absl::StatusOr<std::string> id = ParseMigrationName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<WatchGate::Pass> pass = watches_->Enter();
  if (!pass.ok()) return ToGrpcStatus(pass.status());

  MigrationStream stream(request->resume_revision(), watches_->heartbeat_interval(), writer);
  absl::StatusOr<Migration> migration = registry_->Get(*id);
  while (migration.ok() && !context->IsCancelled() && !watches_->closed()) {
    if (!stream.Report(*migration)) break;
    if (IsTerminal(migration->state)) return grpc::Status::OK;
    migration = registry_->WaitForChange(*id, stream.seen(), kWatchPoll);
  }
  if (!migration.ok()) return ToGrpcStatus(migration.status(), AboutMigration(*id));
  if (watches_->closed()) return ToGrpcStatus(WatchGate::ClosedError());
  return grpc::Status::CANCELLED;
}

grpc::Status MigrationService::CancelMigration(grpc::ServerContext* context,
                                               const v1::CancelMigrationRequest* request,
                                               v1::Migration* response) {
  const absl::StatusOr<std::string> id = ParseMigrationName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<Migration> cancelled = registry_->Cancel(*id);
  Audit("cancel", peers_->Describe(context->peer()), *id, cancelled.status());
  if (!cancelled.ok()) return ToGrpcStatus(cancelled.status(), AboutMigration(*id));
  *response = ToProto(*cancelled);
  return grpc::Status::OK;
}

grpc::Status MigrationService::ResolveMigration(grpc::ServerContext* context,
                                                const v1::ResolveMigrationRequest* request,
                                                v1::Migration* response) {
  const absl::StatusOr<std::string> id = ParseMigrationName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<Migration> resolving = registry_->Resolve(*id);
  Audit("resolve", peers_->Describe(context->peer()), *id, resolving.status());
  if (!resolving.ok()) return ToGrpcStatus(resolving.status(), AboutMigration(*id));
  *response = ToProto(*resolving);
  return grpc::Status::OK;
}

grpc::Status MigrationService::GetMigrationTrace(grpc::ServerContext* /*context*/,
                                                 const v1::GetMigrationTraceRequest* request,
                                                 v1::MigrationTrace* response) {
  const absl::StatusOr<std::string> id = ParseTraceName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<Migration> migration = registry_->Get(*id);
  if (!migration.ok()) return ToGrpcStatus(migration.status(), AboutMigration(*id));
  const absl::StatusOr<MigrationTrace> trace = registry_->Trace(*id);
  if (!trace.ok()) {
    return ToGrpcStatus(trace.status(), ErrorContext{.metadata = {{"migration", *id}},
                                                     .resource_type = std::string(kTraceType),
                                                     .resource_name = TraceName(*id)});
  }
  *response = ToProto(*trace, *migration);
  return grpc::Status::OK;
}

}  // namespace rehome
