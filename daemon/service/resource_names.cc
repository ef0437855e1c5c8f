// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/resource_names.h"

#include <algorithm>

#include "daemon/service/service_reasons.h"
#include "daemon/service/status_details.h"

namespace rehome {
namespace {

constexpr std::string_view kMigrations = "migrations/";
constexpr std::string_view kTraceSuffix = "/trace";
constexpr std::string_view kVms = "virtualMachines/";
constexpr size_t kMaxIdLength = 63;

std::optional<std::string> IdIn(std::string_view collection, std::string_view name) {
  if (!name.starts_with(collection)) return std::nullopt;
  const std::string_view id = name.substr(collection.size());
  if (!IsId(id)) return std::nullopt;
  return std::string(id);
}

absl::StatusOr<std::string> Parse(std::string_view collection, std::string_view placeholder,
                                  std::string_view name) {
  std::optional<std::string> id = IdIn(collection, name);
  if (id.has_value()) return *std::move(id);
  const std::string form = std::string(collection) + std::string(placeholder);
  return FieldErrors(service_reason::kBadName,
                     {{"name", name.empty() ? "is required: \"" + form + "\""
                                            : "must have the form \"" + form + "\""}});
}

}  // namespace

std::string MigrationName(std::string_view id) { return std::string(kMigrations).append(id); }

std::string TraceName(std::string_view migration_id) {
  return MigrationName(migration_id).append(kTraceSuffix);
}

std::string VmName(std::string_view id) { return std::string(kVms).append(id); }

bool IsId(std::string_view text) {
  return !text.empty() && text.size() <= kMaxIdLength &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
         });
}

std::optional<std::string> MigrationIdIn(std::string_view name) { return IdIn(kMigrations, name); }

std::optional<std::string> VmIdIn(std::string_view name) { return IdIn(kVms, name); }

absl::StatusOr<std::string> ParseMigrationName(std::string_view name) {
  return Parse(kMigrations, "{migration}", name);
}

absl::StatusOr<std::string> ParseTraceName(std::string_view name) {
  // Without the suffix there is no id, whatever stands there.
  const std::string_view migration =
      name.ends_with(kTraceSuffix) ? name.substr(0, name.size() - kTraceSuffix.size()) : "";
  const std::optional<std::string> id = MigrationIdIn(migration);
  if (id.has_value()) return *id;
  return FieldErrors(service_reason::kBadName,
                     {{"name", "must have the form \"migrations/{migration}/trace\""}});
}

absl::StatusOr<std::string> ParseVmName(std::string_view name) { return Parse(kVms, "{vm}", name); }

}  // namespace rehome
