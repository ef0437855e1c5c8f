// SPDX-License-Identifier: Apache-2.0
//
// What has to be done to bring all guests of a host into VMMs of one profile (docs/fleet.md).
#ifndef REHOME_CLIENT_FLEET_PLAN_H_
#define REHOME_CLIENT_FLEET_PLAN_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/migration_client.h"
#include "client/vm_filter.h"

namespace rehome {

struct FleetVm {
  enum class Plan {
    kMove,
    kJoin,          // `migration` takes it there already, and has not finished
    kAlreadyThere,  // `migration` took it there
    kUnresolved,    // `migration` is INDETERMINATE and in the way
  };
  std::string vm;  // resource name
  Plan plan = Plan::kMove;
  v1::Migration migration;  // unset for kMove
};

struct FleetPlan {
  std::string profile;
  std::vector<FleetVm> vms;  // as the daemon lists them; unresolved ones without a VMM last

  size_t Count(FleetVm::Plan plan) const;
};

// Asks the daemon for all virtual machines that `filter` selects, and for what it takes to plan
// each. Of a VM without a connected VMM only the id is known, and its type. Errors of the calls;
// NOT_FOUND / PROFILE_NOT_FOUND. Nothing is started.
absl::StatusOr<FleetPlan> PlanFleet(MigrationClient* client, const std::string& profile,
                                    const VmFilter& filter);

// Whether `migration` is over and took its guest to a VMM of `profile`.
bool HasArrived(const v1::Migration& migration, const std::string& profile);

// Whether `migration` took its guest to the process that runs `vm` now. `boot_id` is the host's:
// process ids of another boot mean nothing.
bool LedToPresentProcess(const v1::Migration& migration, const v1::VirtualMachine& vm,
                         const std::string& boot_id);

}  // namespace rehome

#endif  // REHOME_CLIENT_FLEET_PLAN_H_
