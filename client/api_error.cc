// SPDX-License-Identifier: Apache-2.0
#include "client/api_error.h"

#include <string>

#include "absl/strings/cord.h"

namespace rehome {
namespace {

constexpr char kStatusUrl[] = "type.googleapis.com/google.rpc.Status";
constexpr char kErrorDomain[] = "rehome";

absl::Status WithDetails(absl::StatusCode code, const std::string& message,
                         const google::rpc::Status& details) {
  absl::Status status(code, message);
  status.SetPayload(kStatusUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  return WithDetails(static_cast<absl::StatusCode>(status.error_code()), status.error_message(),
                     details);
}

absl::Status ClientError(absl::StatusCode code, std::string_view reason, std::string_view message) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  google::rpc::Status details;
  details.set_code(static_cast<int>(code));
  details.set_message(std::string(message));
  details.add_details()->PackFrom(info);
  return WithDetails(code, details.message(), details);
}

ApiError DetailsOf(const google::rpc::Status& status) {
  ApiError error;
  for (const auto& detail : status.details()) {
    // Each type appears at most once, and UnpackTo() touches only its own.
    detail.UnpackTo(&error.info) || detail.UnpackTo(&error.bad_request) ||
        detail.UnpackTo(&error.preconditions) || detail.UnpackTo(&error.resource) ||
        detail.UnpackTo(&error.retry);
  }
  return error;
}

ApiError DetailsOf(const absl::Status& status) {
  google::rpc::Status details;
  const auto payload = status.GetPayload(kStatusUrl);
  if (payload.has_value() && !details.ParseFromString(std::string(*payload))) details.Clear();
  return DetailsOf(details);
}

std::string ApiReasonOf(const absl::Status& status) { return DetailsOf(status).info.reason(); }

}  // namespace rehome
