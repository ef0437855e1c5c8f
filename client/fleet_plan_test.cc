// SPDX-License-Identifier: Apache-2.0
#include "client/fleet_plan.h"

#include <gtest/gtest.h>

#include "client/api_error.h"
#include "client/testing/fake_fleet.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {
namespace {

using Plan = FleetVm::Plan;

class FleetPlanTest : public ::testing::Test {
 protected:
  FleetPlanTest() : daemon_(socket_.path()), client_({.socket_path = socket_.path()}) {}

  FleetPlan PlanFor(const std::string& profile, const VmFilter& filter = {}) {
    auto plan = PlanFleet(&client_, profile, filter);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? *std::move(plan) : FleetPlan();
  }
  // As far as the daemon is concerned, whoever asked for it.
  void Move(const std::string& vm, const std::string& profile) {
    ASSERT_TRUE(client_.WatchMigration("migrations/" + daemon_.Start(vm, profile), {}).ok());
  }

  const testing::TempSocket socket_;
  testing::FakeFleet daemon_;
  MigrationClient client_;
};

TEST_F(FleetPlanTest, EveryVmIsToBeMovedAtFirst) {
  daemon_.AddVms(12);
  const FleetPlan plan = PlanFor("vmm-2");
  EXPECT_EQ(plan.vms.size(), 12u) << "on every page";
  EXPECT_EQ(plan.Count(Plan::kMove), 12u);
}

TEST_F(FleetPlanTest, TheFilterSelects) {
  daemon_.AddVms(12);
  VmFilter filter;
  ASSERT_TRUE(filter.Add("vm=vm-1*").ok());
  const FleetPlan plan = PlanFor("vmm-2", filter);
  ASSERT_EQ(plan.vms.size(), 3u);
  EXPECT_EQ(plan.vms[2].vm, "virtualMachines/vm-11");
}

TEST_F(FleetPlanTest, WhatWasMovedThereIsAlreadyThere) {
  daemon_.AddVms(2);
  Move("vm-0", "vmm-2");
  const FleetPlan plan = PlanFor("vmm-2");
  EXPECT_EQ(plan.vms[0].plan, Plan::kAlreadyThere);
  EXPECT_EQ(plan.vms[0].migration.name(), "migrations/m-0");
  EXPECT_EQ(plan.vms[1].plan, Plan::kMove);
  EXPECT_EQ(PlanFor("vmm-3").Count(Plan::kMove), 2u) << "of another profile it proves nothing";
}

TEST_F(FleetPlanTest, WhatWasMovedOnIsNotThere) {
  daemon_.AddVms(1);
  Move("vm-0", "vmm-2");
  Move("vm-0", "vmm-3");
  EXPECT_EQ(PlanFor("vmm-2").vms[0].plan, Plan::kMove);
  EXPECT_EQ(PlanFor("vmm-3").vms[0].plan, Plan::kAlreadyThere);
}

TEST_F(FleetPlanTest, AFailedWayOutChangesNothing) {
  daemon_.AddVms(1);
  Move("vm-0", "vmm-2");
  daemon_.EndWith("vm-0", {testing::RolledBackMigration()});
  Move("vm-0", "vmm-3");
  EXPECT_EQ(PlanFor("vmm-2").vms[0].plan, Plan::kAlreadyThere);
}

TEST_F(FleetPlanTest, AMigrationUnderWayIsJoinedIfItGoesThere) {
  daemon_.AddVms(2);
  daemon_.Hold("");
  const std::string id = daemon_.Start("vm-0", "vmm-2");
  daemon_.Start("vm-1", "vmm-3");
  const FleetPlan plan = PlanFor("vmm-2");
  EXPECT_EQ(plan.vms[0].plan, Plan::kJoin);
  EXPECT_EQ(plan.vms[0].migration.name(), "migrations/" + id);
  EXPECT_EQ(plan.vms[1].plan, Plan::kMove) << "the daemon will say what is in the way";
}

TEST_F(FleetPlanTest, UnresolvedOnesAreInThePlanAlsoWithoutAVmm) {
  daemon_.AddVms(3);
  for (const char* vm : {"vm-0", "vm-1"}) {
    daemon_.EndWith(vm, {testing::IndeterminateMigration()});
    Move(vm, "vmm-2");
  }
  daemon_.Disconnect("vm-0");
  const FleetPlan plan = PlanFor("vmm-2");
  ASSERT_EQ(plan.vms.size(), 3u);
  EXPECT_EQ(plan.vms[0].vm, "virtualMachines/vm-1");
  EXPECT_EQ(plan.vms[0].plan, Plan::kUnresolved);
  EXPECT_EQ(plan.vms[1].plan, Plan::kMove);
  EXPECT_EQ(plan.vms[2].vm, "virtualMachines/vm-0");
  EXPECT_EQ(plan.vms[2].plan, Plan::kUnresolved);
}

TEST_F(FleetPlanTest, AConnectedVmThatTheFilterLeavesOutIsNotTakenForOneWithoutAVmm) {
  daemon_.AddVms(1);
  daemon_.EndWith("vm-0", {testing::IndeterminateMigration()});
  Move("vm-0", "vmm-2");
  VmFilter filter;
  ASSERT_TRUE(filter.Add("vmm!=rehome-vmm*").ok());
  EXPECT_TRUE(PlanFor("vmm-2", filter).vms.empty());
}

TEST_F(FleetPlanTest, AnUnknownProfileIsAnErrorBeforeAnythingIsAsked) {
  const auto plan = PlanFleet(&client_, "vmm-9", {});
  EXPECT_EQ(ApiReasonOf(plan.status()), "PROFILE_NOT_FOUND");
}

TEST(LedToPresentProcessTest, NeedsTheSameProcessOfTheSameBootAndAnEnd) {
  const v1::Migration arrived = testing::SampleHistory().back();
  v1::VirtualMachine vm = testing::SampleVm();
  *vm.mutable_process() = arrived.target();
  EXPECT_TRUE(LedToPresentProcess(arrived, vm, arrived.boot_id()));
  EXPECT_FALSE(LedToPresentProcess(arrived, vm, "another boot"));
  EXPECT_FALSE(LedToPresentProcess(testing::SampleHistory()[5], vm, arrived.boot_id()))
      << "still completing";
  vm.mutable_process()->set_start_ticks(arrived.target().start_ticks() + 1);
  EXPECT_FALSE(LedToPresentProcess(arrived, vm, arrived.boot_id())) << "a later process, same pid";
}

}  // namespace
}  // namespace rehome
