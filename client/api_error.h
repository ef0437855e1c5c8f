// SPDX-License-Identifier: Apache-2.0
//
// Errors as a client gets them: an absl::Status that carries the daemon's google.rpc.Status.
#ifndef REHOME_CLIENT_API_ERROR_H_
#define REHOME_CLIENT_API_ERROR_H_

#include <string_view>

#include "absl/status/status.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace rehome {

// The details of an error; what the error does not have is empty.
struct ApiError {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::PreconditionFailure preconditions;
  google::rpc::ResourceInfo resource;
  google::rpc::RetryInfo retry;
};

// The outcome of a call. Code and message are the daemon's; details that cannot be parsed are left
// out.
absl::Status FromGrpcStatus(const grpc::Status& status);

// An error of the client itself, with the same kind of details.
absl::Status ClientError(absl::StatusCode code, std::string_view reason, std::string_view message);

// The details of an error made by one of the two above, or of Migration.error.
ApiError DetailsOf(const absl::Status& status);
ApiError DetailsOf(const google::rpc::Status& status);

// ErrorInfo.reason, "" without one.
std::string ApiReasonOf(const absl::Status& status);

}  // namespace rehome

#endif  // REHOME_CLIENT_API_ERROR_H_
