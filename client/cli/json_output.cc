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

}  // namespace

void PrintJson(const google::protobuf::Message& message, const Console& console) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.add_whitespace = console.out_is_terminal;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) {
    // A detail of a type that only a newer daemon knows.
    PrintJsonError(absl::InternalError("the answer cannot be written as JSON: " +
                                       std::string(status.message())),
                   console);
    return;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  console.out << text << std::endl;
}

void PrintJsonError(const absl::Status& error, const Console& console) {
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
  Print(Json{{"error", std::move(body)}}, console);
}

}  // namespace rehome
