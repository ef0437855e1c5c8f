// SPDX-License-Identifier: Apache-2.0
//
// Migrations whose guest may be anywhere.
#ifndef REHOME_CLIENT_UNRESOLVED_H_
#define REHOME_CLIENT_UNRESOLVED_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/migration_client.h"

namespace rehome {

// By the VM's name: the daemon admits no second migration of a VM that has one. So they are as few
// as the VMs.
using UnresolvedByVm = std::map<std::string, v1::Migration>;

// All that are INDETERMINATE. Errors of ListMigrations().
absl::StatusOr<UnresolvedByVm> ListUnresolved(MigrationClient* client);

}  // namespace rehome

#endif  // REHOME_CLIENT_UNRESOLVED_H_
