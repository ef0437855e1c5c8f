// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/create_request.h"

#include <chrono>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/registry.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/service_reasons.h"
#include "daemon/service/status_details.h"
#include "daemon/service/translate_enums.h"

namespace rehome {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

// Of the configuration file (kMaxProfileNameLength); a longer one cannot exist.
constexpr size_t kMaxProfileNameBytes = 64;

struct DurationRange {
  std::chrono::milliseconds min;
  std::chrono::milliseconds max;
};
constexpr DurationRange kHandoverTimeoutRange{std::chrono::milliseconds(1), kMaxHandoverTimeout};
// Starting a VMM alone takes some milliseconds, so a shorter deadline is a mistake of the caller.
constexpr DurationRange kDeadlineRange{std::chrono::milliseconds(100), kMaxDeadline};

bool IsRequestIdCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.' || c == ':';
}

bool IsRequestId(const std::string& id) {
  if (id.size() > kMaxRequestIdBytes) return false;
  for (const char c : id) {
    if (!IsRequestIdCharacter(c)) return false;
  }
  return true;
}

// The duration rounded up to whole milliseconds, or nullopt if it is out of range.
std::optional<std::chrono::milliseconds> InRange(const google::protobuf::Duration& duration,
                                                 const DurationRange& range) {
  // Both parts are checked first: as a sum a hostile value overflows.
  if (duration.seconds() < 0 || duration.seconds() > range.max.count() / 1000) return std::nullopt;
  if (duration.nanos() < 0 || duration.nanos() >= kNanosPerSecond) return std::nullopt;
  const std::chrono::milliseconds value(duration.seconds() * 1000 +
                                        (duration.nanos() + 999'999) / 1'000'000);
  if (value < range.min || value > range.max) return std::nullopt;
  return value;
}

std::chrono::milliseconds ParseDuration(const char* field,
                                        const google::protobuf::Duration& duration,
                                        const DurationRange& range,
                                        std::vector<FieldViolation>* wrong) {
  const auto value = InRange(duration, range);
  if (value.has_value()) return *value;
  wrong->push_back(
      {field, absl::StrCat("must be from ", range.min.count(), " to ", range.max.count(), " ms")});
  return std::chrono::milliseconds(0);
}

}  // namespace

absl::StatusOr<MigrationRequest> ParseCreateRequest(const v1::CreateMigrationRequest& request,
                                                    const std::string& requested_by) {
  std::vector<FieldViolation> wrong;
  MigrationRequest parsed;
  parsed.requested_by = requested_by;
  parsed.validate_only = request.validate_only();

  const std::optional<std::string> vm = VmIdIn(request.vm());
  if (!vm.has_value()) wrong.push_back({"vm", "must have the form \"virtualMachines/{vm}\""});
  parsed.vm_id = vm.value_or("");

  const size_t profile_size = request.target_profile().size();
  if (profile_size == 0 || profile_size > kMaxProfileNameBytes) {
    wrong.push_back({"target_profile", "must name a profile of this host, 1 to 64 characters"});
  }
  parsed.target_profile = request.target_profile();

  if (!IsRequestId(request.request_id())) {
    wrong.push_back({"request_id", absl::StrCat("must be at most ", kMaxRequestIdBytes,
                                                " characters of A-Z a-z 0-9 . _ : -")});
  }
  parsed.request_id = request.request_id();

  if (request.has_handover_timeout()) {
    parsed.handover_timeout = ParseDuration("handover_timeout", request.handover_timeout(),
                                            kHandoverTimeoutRange, &wrong);
  }
  if (request.has_deadline()) {
    parsed.deadline = ParseDuration("deadline", request.deadline(), kDeadlineRange, &wrong);
  }
  const std::optional<FencePolicy> policy = FromProto(request.fence_policy());
  if (!policy.has_value()) wrong.push_back({"fence_policy", "is not a policy of this daemon"});
  parsed.fence_policy = policy.value_or(FencePolicy::kUnspecified);

  if (!wrong.empty()) return FieldErrors(service_reason::kBadField, wrong);
  return parsed;
}

}  // namespace rehome
