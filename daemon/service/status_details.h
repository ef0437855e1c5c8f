// SPDX-License-Identifier: Apache-2.0
//
// From the project's errors (absl::Status with a reason) to what travels: a gRPC status whose
// trailer holds google.rpc.Status with details (AIP-193). The one place that builds details.
#ifndef REHOME_DAEMON_SERVICE_STATUS_DETAILS_H_
#define REHOME_DAEMON_SERVICE_STATUS_DETAILS_H_

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace rehome {

// ErrorInfo.domain of every error.
inline constexpr std::string_view kErrorDomain = "rehome";

// The trailer of a gRPC call is a header list of at most 8 KiB (GRPC_ARG_MAX_METADATA_SIZE of a
// receiver that sets nothing), which the message shares, percent-encoded. What does not fit would
// turn a clear error into RESOURCE_EXHAUSTED.
inline constexpr size_t kMaxMessageBytes = 1024;
inline constexpr size_t kMaxDetailsBytes = 4096;

// What the place that answers knows beyond the error itself.
struct ErrorContext {
  // ErrorInfo.metadata: the dynamic values of the message, by lowerCamelCase key.
  std::map<std::string, std::string> metadata;
  // ResourceInfo; left out if the name is empty.
  std::string resource_type;
  std::string resource_name;
};

struct FieldViolation {
  std::string field;
  std::string description;
};

// INVALID_ARGUMENT / `reason` that carries a BadRequest; the message joins the violations.
// REQUIRES: at least one violation.
absl::Status FieldErrors(std::string_view reason, const std::vector<FieldViolation>& violations);

// The error as data: ErrorInfo always, BadRequest from FieldErrors(), ResourceInfo from `context`,
// RetryInfo for the reasons that pass by themselves. REQUIRES: an error.
google::rpc::Status ToRpcStatus(const absl::Status& error, const ErrorContext& context);

// The same for the trailer, cut to the bounds above: a message that is too long is shortened; of
// details that are too long only ErrorInfo (without metadata, if need be) remains. OK gives OK.
grpc::Status ToGrpcStatus(const absl::Status& status, const ErrorContext& context = {});

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_STATUS_DETAILS_H_
