// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/status_details.h"

#include <cassert>
#include <chrono>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/service/service_reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Where FieldErrors() leaves its BadRequest inside an absl::Status.
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

// How long what is in the way lasts as a rule. A migration takes some hundred milliseconds, a
// restart of the daemon about a second; a watcher stays for minutes.
std::optional<std::chrono::seconds> RetryDelay(std::string_view reason) {
  using std::chrono::seconds;
  if (reason == reason::kMigrationInProgress) return seconds(1);
  if (reason == reason::kQueueFull) return seconds(1);
  if (reason == reason::kShuttingDown) return seconds(1);
  if (reason == reason::kRecovering) return seconds(1);
  if (reason == service_reason::kTooManyWatches) return seconds(10);
  if (reason == reason::kThreadLimit) return seconds(10);
  return std::nullopt;
}

void AddErrorInfo(const std::string& reason, const ErrorContext& context,
                  google::rpc::Status* status) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(kErrorDomain.data(), kErrorDomain.size());
  info.mutable_metadata()->insert(context.metadata.begin(), context.metadata.end());
  status->add_details()->PackFrom(info);
}

}  // namespace

absl::Status FieldErrors(std::string_view reason, const std::vector<FieldViolation>& violations) {
  assert(!violations.empty());
  google::rpc::BadRequest bad_request;
  std::string message;
  for (const FieldViolation& violation : violations) {
    auto* const added = bad_request.add_field_violations();
    added->set_field(violation.field);
    added->set_description(violation.description);
    absl::StrAppend(&message, message.empty() ? "" : "; ", violation.field, ": ",
                    violation.description);
  }
  absl::Status error = MakeStatus(absl::StatusCode::kInvalidArgument, reason, message);
  error.SetPayload(kBadRequestUrl, absl::Cord(bad_request.SerializeAsString()));
  return error;
}

google::rpc::Status ToRpcStatus(const absl::Status& error, const ErrorContext& context) {
  assert(!error.ok());
  google::rpc::Status status;
  status.set_code(static_cast<int>(error.code()));
  status.set_message(std::string(error.message()));
  const std::string reason = ReasonOf(error);
  AddErrorInfo(reason, context, &status);

  if (const auto payload = error.GetPayload(kBadRequestUrl); payload.has_value()) {
    auto* const detail = status.add_details();
    detail->set_type_url(kBadRequestUrl);
    detail->set_value(std::string(*payload));
  }
  if (!context.resource_name.empty()) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type(context.resource_type);
    resource.set_resource_name(context.resource_name);
    resource.set_description(std::string(error.message()));
    status.add_details()->PackFrom(resource);
  }
  if (const auto delay = RetryDelay(reason); delay.has_value()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(delay->count());
    status.add_details()->PackFrom(retry);
  }
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status, const ErrorContext& context) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details = ToRpcStatus(status, context);
  if (details.message().size() > kMaxMessageBytes) {
    // Not in the middle of a UTF-8 sequence: protobuf refuses such a string.
    size_t end = kMaxMessageBytes;
    while (end > 0 && (static_cast<unsigned char>(details.message()[end]) & 0xc0) == 0x80) --end;
    details.mutable_message()->resize(end);
    details.mutable_message()->append("...");
  }
  const std::string message = details.message();
  if (details.ByteSizeLong() > kMaxDetailsBytes) {
    details.clear_details();
    AddErrorInfo(ReasonOf(status), context, &details);
  }
  if (details.ByteSizeLong() > kMaxDetailsBytes) {
    details.clear_details();
    AddErrorInfo(ReasonOf(status), ErrorContext{}, &details);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      details.SerializeAsString());
}

}  // namespace rehome
