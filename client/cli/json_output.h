// SPDX-License-Identifier: Apache-2.0
//
// --json: one JSON object on standard output, whatever happens.
#ifndef REHOME_CLIENT_CLI_JSON_OUTPUT_H_
#define REHOME_CLIENT_CLI_JSON_OUTPUT_H_

#include <string>

#include "absl/status/status.h"
#include "client/cli/console.h"
#include "google/protobuf/message.h"

namespace rehome {

// `message` in protobuf's JSON mapping: lowerCamelCase names, 64-bit numbers as strings, enums by
// name, fields with default values included. Indented on a terminal, else one line.
void PrintJson(const google::protobuf::Message& message, const Console& console);

// {"error": {"code": "NOT_FOUND", "reason": ..., "message": ..., "metadata": {...},
// "violations": [{"type"|"field", "subject", "description"}], "resource": ..., "retryAfterSeconds":
// ...}}; what the error does not have is left out, except reason and metadata.
void PrintJsonError(const absl::Status& error, const Console& console);

// The same as text on one line, to be put into something larger; the error without the object
// around it.
std::string JsonText(const google::protobuf::Message& message);
std::string JsonErrorText(const absl::Status& error);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_JSON_OUTPUT_H_
