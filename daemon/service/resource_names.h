// SPDX-License-Identifier: Apache-2.0
//
// Resource names of the API (AIP-122) and the ids in them.
#ifndef REHOME_DAEMON_SERVICE_RESOURCE_NAMES_H_
#define REHOME_DAEMON_SERVICE_RESOURCE_NAMES_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace rehome {

inline constexpr std::string_view kMigrationType = "rehome.v1.Migration";
inline constexpr std::string_view kTraceType = "rehome.v1.MigrationTrace";
inline constexpr std::string_view kVmResourceType = "rehome.v1.VirtualMachine";
inline constexpr std::string_view kVmmProfileType = "rehome.v1.VmmProfile";
inline constexpr std::string_view kHostName = "host";

std::string MigrationName(std::string_view id);        // "migrations/m-0123456789abcdef"
std::string TraceName(std::string_view migration_id);  // "migrations/m-0123456789abcdef/trace"
std::string VmName(std::string_view id);               // "virtualMachines/web-1"

// The id in a name, or nullopt. Ids of both kinds are 1 to 63 characters of a-z 0-9 and hyphen; no
// other id exists, so a name that this accepts is at worst one that nobody has.
std::optional<std::string> MigrationIdIn(std::string_view name);
std::optional<std::string> VmIdIn(std::string_view name);
bool IsId(std::string_view text);

// The same for a request's field `name`: INVALID_ARGUMENT / BAD_NAME with the violation.
absl::StatusOr<std::string> ParseMigrationName(std::string_view name);
// The migration's id.
absl::StatusOr<std::string> ParseTraceName(std::string_view name);
absl::StatusOr<std::string> ParseVmName(std::string_view name);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_RESOURCE_NAMES_H_
