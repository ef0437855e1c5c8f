// SPDX-License-Identifier: Apache-2.0
#include "client/cli/json_output.h"

#include <google/protobuf/util/json_util.h>

#include <string>

#include "client/api_error.h"
#include "nlohmann/json.hpp"

namespace rehome {
namespace {

// Keeps the order in which fields are written.
using Json = nlohmann::ordered_json;

void Print(const Json& json, const Console& console) {
  // Bytes that are not UTF-8 must not throw: they become U+FFFD.
  const int indent = console.out_is_terminal ? 2 : -1;
  console.out << json.dump(indent, ' ', false, Json::error_handler_t::replace) << std::endl;
}

Json ViolationsOf(const ApiError& details) {
  Json violations = Json::array();
  for (const auto& violation : details.bad_request.field_violations()) {
    violations.push_back({{"field", violation.field()}, {"description", violation.description()}});
  }
  for (const auto& violation : details.preconditions.violations()) {
    violations.push_back({{"type", violation.type()},
                          {"subject", violation.subject()},
                          {"description", violation.description()}});
  }
  return violations;
}

Json ErrorBody(const absl::Status& error) {
  const ApiError details = DetailsOf(error);
  Json body;
  body["code"] = absl::StatusCodeToString(error.code());
  body["reason"] = details.info.reason();
  body["message"] = std::string(error.message());
  body["metadata"] = Json::object();
  for (const auto& [key, value] : details.info.metadata()) body["metadata"][key] = value;
  if (Json violations = ViolationsOf(details); !violations.empty()) {
    body["violations"] = std::move(violations);
  }
  if (!details.resource.resource_name().empty()) {
    body["resource"] = details.resource.resource_name();
  }
  if (details.retry.has_retry_delay()) {
    body["retryAfterSeconds"] = details.retry.retry_delay().seconds();
  }
  return body;
}

absl::Status Write(const google::protobuf::Message& message, bool indented, std::string* text) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.add_whitespace = indented;
  const auto status = google::protobuf::util::MessageToJsonString(message, text, options);
  if (!status.ok()) {
    // A detail of a type that only a newer daemon knows.
    return absl::InternalError("the answer cannot be written as JSON: " +
                               std::string(status.message()));
  }
  if (!text->empty() && text->back() == '\n') text->pop_back();
  return absl::OkStatus();
}

}  // namespace

void PrintJson(const google::protobuf::Message& message, const Console& console) {
  std::string text;
  const absl::Status status = Write(message, console.out_is_terminal, &text);
  if (!status.ok()) return PrintJsonError(status, console);
  console.out << text << std::endl;
}

void PrintJsonError(const absl::Status& error, const Console& console) {
  Print(Json{{"error", ErrorBody(error)}}, console);
}

std::string JsonText(const google::protobuf::Message& message) {
  std::string text;
  const absl::Status status = Write(message, /*indented=*/false, &text);
  return status.ok() ? text : JsonErrorText(status);
}

std::string JsonErrorText(const absl::Status& error) {
  return ErrorBody(error).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rehome
