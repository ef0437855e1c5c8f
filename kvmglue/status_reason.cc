// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/status_reason.h"

#include <cassert>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace rehome {
namespace {

// Names the payload inside an absl::Status; it never leaves the process under this name.
constexpr std::string_view kReasonUrl = "rehome/reason";

absl::string_view Abseil(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status MakeStatus(absl::StatusCode code, std::string_view reason, std::string_view message) {
  assert(code != absl::StatusCode::kOk);
  absl::Status status(code, Abseil(message));
  status.SetPayload(Abseil(kReasonUrl), absl::Cord(Abseil(reason)));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  if (status.ok()) return "";
  const absl::optional<absl::Cord> reason = status.GetPayload(Abseil(kReasonUrl));
  return reason.has_value() ? std::string(*reason) : "UNSPECIFIED";
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(Abseil(context), ": ", status.message()));
  status.ForEachPayload([&annotated](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace rehome
