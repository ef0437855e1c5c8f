// SPDX-License-Identifier: Apache-2.0
//
// Every error of the project carries a stable UPPER_SNAKE reason beside its canonical code. The
// reason travels unchanged from the place that found the error to google.rpc.ErrorInfo.reason, the
// CLI and the journal; docs/reasons.md lists each one.
#ifndef REHOME_KVMGLUE_STATUS_REASON_H_
#define REHOME_KVMGLUE_STATUS_REASON_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace rehome {

// A Status with `reason` attached (as an absl payload). REQUIRES: code is not kOk.
absl::Status MakeStatus(absl::StatusCode code, std::string_view reason, std::string_view message);

// The reason attached by MakeStatus; "UNSPECIFIED" for an error without one, "" for OK.
std::string ReasonOf(const absl::Status& status);

// The same error with `context` in front of its message; code and reason are kept.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_STATUS_REASON_H_
