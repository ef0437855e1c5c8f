// SPDX-License-Identifier: Apache-2.0
//
// From CreateMigrationRequest to what the registry takes. Checks the form of every field; whether
// the VM and the profile exist is the registry's to say.
#ifndef REHOME_DAEMON_SERVICE_CREATE_REQUEST_H_
#define REHOME_DAEMON_SERVICE_CREATE_REQUEST_H_

#include <string>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

// `requested_by` names the caller, for the record. INVALID_ARGUMENT / BAD_FIELD with every field
// that is wrong, not just the first.
absl::StatusOr<MigrationRequest> ParseCreateRequest(const v1::CreateMigrationRequest& request,
                                                    const std::string& requested_by);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_CREATE_REQUEST_H_
