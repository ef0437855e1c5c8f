// SPDX-License-Identifier: Apache-2.0
//
// The filter of ListMigrations: the subset of AIP-160 that the registry can answer.
#ifndef REHOME_DAEMON_SERVICE_MIGRATION_FILTER_H_
#define REHOME_DAEMON_SERVICE_MIGRATION_FILTER_H_

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/registry.h"

namespace rehome {

// Two fields, each at most once, are below 200 characters; a longer one is a mistake.
inline constexpr size_t kMaxFilterLength = 1024;

// FIELD = VALUE {AND FIELD = VALUE}; fields `vm` (a name or its id) and `state`; values bare or in
// double quotes. Empty: no restriction. INVALID_ARGUMENT / BAD_FILTER with what is wrong and where:
// an unknown field or state is named, as are OR, NOT, != and other things of AIP-160 that are not
// in the subset.
absl::StatusOr<MigrationFilter> ParseMigrationFilter(std::string_view filter);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_MIGRATION_FILTER_H_
