// SPDX-License-Identifier: Apache-2.0
#include "client/fleet_plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/api_error.h"
#include "client/unresolved.h"

namespace rehome {
namespace {

// The most that the daemon gives at once.
constexpr int kVmPage = 1000;
// How far back the migration that took a guest to its present process is looked for: behind so many
// that failed it counts as not moved, and is moved again.
constexpr int kHistory = 50;

absl::StatusOr<v1::Host> GetHostWith(MigrationClient* client, const std::string& profile) {
  absl::StatusOr<v1::Host> host = client->GetHost();
  if (!host.ok()) return host;
  const auto& profiles = host->vmm_profiles();
  const bool known = std::any_of(profiles.begin(), profiles.end(),
                                 [&](const v1::VmmProfile& one) { return one.name() == profile; });
  if (known) return host;
  return ClientError(absl::StatusCode::kNotFound, "PROFILE_NOT_FOUND",
                     absl::StrCat("no profile ", profile));
}

absl::StatusOr<std::vector<v1::VirtualMachine>> ListVms(MigrationClient* client) {
  std::vector<v1::VirtualMachine> vms;
  v1::ListVirtualMachinesRequest request;
  request.set_page_size(kVmPage);
  do {
    auto page = client->ListVirtualMachines(request);
    if (!page.ok()) return page.status();
    request.set_page_token(page->next_page_token());
    for (v1::VirtualMachine& vm : *page->mutable_virtual_machines()) vms.push_back(std::move(vm));
  } while (!request.page_token().empty());
  return vms;
}

// The migration that took the guest where it is now, if it went to the profile.
absl::StatusOr<std::optional<v1::Migration>> FindArrival(MigrationClient* client,
                                                         const v1::VirtualMachine& vm,
                                                         const std::string& profile,
                                                         const std::string& boot_id) {
  v1::ListMigrationsRequest request;
  request.set_filter(absl::StrCat("vm = \"", vm.name(), "\""));
  request.set_page_size(kHistory);
  auto page = client->ListMigrations(request);
  if (!page.ok()) return page.status();
  for (v1::Migration& one : *page->mutable_migrations()) {
    if (!LedToPresentProcess(one, vm, boot_id)) continue;
    if (one.target_profile() != profile) break;
    return std::move(one);
  }
  return std::nullopt;
}

absl::StatusOr<FleetVm> PlanVm(MigrationClient* client, const v1::VirtualMachine& vm,
                               const std::string& profile, const std::string& boot_id) {
  FleetVm planned{.vm = vm.name()};
  if (!vm.active_migration().empty()) {
    v1::GetMigrationRequest request;
    request.set_name(vm.active_migration());
    auto active = client->GetMigration(request);
    // One that was pruned meanwhile is over.
    if (!active.ok() && active.status().code() != absl::StatusCode::kNotFound) {
      return active.status();
    }
    // One to another profile is in the way: the daemon says so when the VM's turn comes.
    if (active.ok() && !IsFinished(*active) && active->target_profile() == profile) {
      planned.plan = FleetVm::Plan::kJoin;
      planned.migration = *std::move(active);
      return planned;
    }
    // It was under way when the VMs were listed: `vm` still shows the process that it left.
    if (active.ok() && HasArrived(*active, profile)) {
      planned.plan = FleetVm::Plan::kAlreadyThere;
      planned.migration = *std::move(active);
      return planned;
    }
  }
  auto arrival = FindArrival(client, vm, profile, boot_id);
  if (!arrival.ok()) return arrival.status();
  if (arrival->has_value()) {
    planned.plan = FleetVm::Plan::kAlreadyThere;
    planned.migration = **std::move(arrival);
  }
  return planned;
}

}  // namespace

size_t FleetPlan::Count(FleetVm::Plan plan) const {
  return static_cast<size_t>(
      std::count_if(vms.begin(), vms.end(), [plan](const FleetVm& vm) { return vm.plan == plan; }));
}

bool HasArrived(const v1::Migration& migration, const std::string& profile) {
  return IsFinished(migration) && migration.guest_owner() == v1::Migration::TARGET &&
         migration.target_profile() == profile;
}

bool LedToPresentProcess(const v1::Migration& migration, const v1::VirtualMachine& vm,
                         const std::string& boot_id) {
  return IsFinished(migration) && migration.guest_owner() == v1::Migration::TARGET &&
         migration.boot_id() == boot_id && migration.target().pid() == vm.process().pid() &&
         migration.target().start_ticks() == vm.process().start_ticks();
}

absl::StatusOr<FleetPlan> PlanFleet(MigrationClient* client, const std::string& profile,
                                    const VmFilter& filter) {
  const auto host = GetHostWith(client, profile);
  if (!host.ok()) return host.status();
  const auto vms = ListVms(client);
  if (!vms.ok()) return vms.status();
  auto unresolved = ListUnresolved(client);
  if (!unresolved.ok()) return unresolved.status();

  FleetPlan plan{.profile = profile};
  for (const v1::VirtualMachine& vm : *vms) {
    auto held = unresolved->extract(vm.name());
    if (!filter.Selects(vm)) continue;
    if (!held.empty()) {
      plan.vms.push_back({vm.name(), FleetVm::Plan::kUnresolved, std::move(held.mapped())});
      continue;
    }
    auto planned = PlanVm(client, vm, profile, host->boot_id());
    if (!planned.ok()) return planned.status();
    plan.vms.push_back(*std::move(planned));
  }
  // No VMM of theirs is connected, but the guest may live.
  for (auto& [name, migration] : *unresolved) {
    v1::VirtualMachine known;
    known.set_name(name);
    known.set_vm_type(migration.vm_type());
    if (!filter.Selects(known)) continue;
    plan.vms.push_back({name, FleetVm::Plan::kUnresolved, std::move(migration)});
  }
  return plan;
}

}  // namespace rehome
