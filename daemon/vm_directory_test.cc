// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_directory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/reasons.h"
#include "daemon/testing/fake_vmm_link.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr std::chrono::milliseconds kNoWait{0};
constexpr std::chrono::milliseconds kBound{30'000};
constexpr char kMigration[] = "m-0000000000000001";

VmEntry Vm(const std::string& vm_id, int32_t pid) {
  VmEntry vm;
  vm.vm_id = vm_id;
  vm.vcpu_count = 2;
  vm.vmm = "vmm 1";
  vm.process = {pid, 100, 0};
  return vm;
}

std::shared_ptr<FakeVmmLink> Link(int32_t pid, const std::string& version = "1") {
  VmmHello hello;
  hello.vmm_name = "vmm";
  hello.vmm_version = version;
  hello.state_format_write = 1;
  return std::make_shared<FakeVmmLink>(ProcessIdentity{pid, 100, 0}, hello);
}

class VmDirectoryTest : public testing::Test {
 protected:
  // A VM "db" of process 10 with an active migration.
  std::shared_ptr<FakeVmmLink> MigratingVm() {
    auto source = Link(10);
    EXPECT_TRUE(vms_.Register(Vm("db", 10), "", source).ok());
    vms_.SetActiveMigration("db", kMigration);
    return source;
  }
  VmDirectory vms_;
};

TEST_F(VmDirectoryTest, ARegisteredVmIsListedWithItsLink) {
  auto link = Link(10);
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", link).ok());
  ASSERT_TRUE(vms_.Register(Vm("cache", 11), "", Link(11)).ok());
  EXPECT_EQ(vms_.Get("db")->vcpu_count, 2u);
  EXPECT_EQ(vms_.LinkOf("db")->get(), link.get());
  const std::vector<VmEntry> all = vms_.List();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].vm_id, "cache") << "sorted by id";
}

TEST_F(VmDirectoryTest, AnUnknownVmIsNotFound) {
  EXPECT_EQ(ReasonOf(vms_.Get("db").status()), reason::kVmNotFound);
  EXPECT_EQ(ReasonOf(vms_.LinkOf("db").status()), reason::kVmNotFound);
}

TEST_F(VmDirectoryTest, OnlyDnsLabelsAreVmIds) {
  const std::string longest(63, 'a');
  for (const std::string& good :
       {std::string("a"), std::string("0"), std::string("a-b"), std::string("a--b"), longest}) {
    EXPECT_TRUE(IsValidVmId(good)) << good;
  }
  for (const std::string& bad :
       {std::string(""), std::string("-a"), std::string("a-"), std::string("A"), std::string("a_b"),
        std::string("a.b"), std::string("a/b"), std::string("a\0b", 3), std::string("\xc3\xa4"),
        longest + "a"}) {
    EXPECT_FALSE(IsValidVmId(bad)) << bad;
    const absl::Status status = vms_.Register(Vm(bad, 10), "", Link(10));
    EXPECT_EQ(ReasonOf(status), reason::kBadVmId);
  }
  EXPECT_TRUE(vms_.List().empty());
}

TEST_F(VmDirectoryTest, ALivingProcessKeepsItsVmId) {
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", Link(10)).ok());
  const absl::Status status = vms_.Register(Vm("db", 11), "", Link(11));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), reason::kVmIdTaken);
  EXPECT_EQ(vms_.Get("db")->process.pid, 10);
}

TEST_F(VmDirectoryTest, AnIdIsFreeOnceItsProcessIsGone) {
  auto first = Link(10);
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", first).ok());
  first->Close();
  EXPECT_TRUE(vms_.Register(Vm("db", 11), "", Link(11)).ok());
  vms_.Unregister(first.get());
  EXPECT_EQ(vms_.Get("db")->process.pid, 11) << "a late goodbye must not drop the successor";
}

TEST_F(VmDirectoryTest, AProcessThatReconnectsReplacesItsOwnEntry) {
  auto first = Link(10), second = Link(10);
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", first).ok());
  vms_.SetActiveMigration("db", kMigration);
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", second).ok());
  EXPECT_EQ(vms_.LinkOf("db")->get(), second.get());
  EXPECT_EQ(vms_.Get("db")->active_migration, kMigration);
  vms_.Unregister(first.get());
  EXPECT_TRUE(vms_.Get("db").ok());
}

TEST_F(VmDirectoryTest, APidUsedAgainIsAnotherProcess) {
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", Link(10)).ok());
  VmEntry later = Vm("db", 10);
  later.process.start_ticks = 200;
  EXPECT_EQ(ReasonOf(vms_.Register(later, "", Link(10))), reason::kVmIdTaken);
}

TEST_F(VmDirectoryTest, TheNumberOfVmsIsBounded) {
  VmDirectory small(/*max_vms=*/2);
  ASSERT_TRUE(small.Register(Vm("a", 1), "", Link(1)).ok());
  auto second = Link(2);
  ASSERT_TRUE(small.Register(Vm("b", 2), "", second).ok());
  EXPECT_EQ(ReasonOf(small.Register(Vm("c", 3), "", Link(3))), reason::kTooManyVms);
  small.Unregister(second.get());
  EXPECT_TRUE(small.Register(Vm("c", 3), "", Link(3)).ok());
}

TEST_F(VmDirectoryTest, ATargetIsLetInButChangesNothingBeforeTheHandOver) {
  MigratingVm();
  auto target = Link(20, "2");
  EXPECT_TRUE(vms_.Register(Vm("db", 20), kMigration, target).ok());
  EXPECT_EQ(vms_.Get("db")->process.pid, 10);
  vms_.HandOver("db", target);
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
  EXPECT_EQ(vms_.Get("db")->vmm, "vmm 2");
  EXPECT_EQ(vms_.Get("db")->vcpu_count, 2u);
  EXPECT_EQ(vms_.LinkOf("db")->get(), target.get());
}

TEST_F(VmDirectoryTest, ATargetOfAnotherMigrationIsNotLetIn) {
  MigratingVm();
  const absl::Status status = vms_.Register(Vm("db", 20), "m-0000000000000002", Link(20));
  EXPECT_EQ(ReasonOf(status), reason::kVmIdTaken);
}

TEST_F(VmDirectoryTest, TheEndOfTheSourceAfterTheHandOverLeavesTheTarget) {
  auto source = MigratingVm();
  auto target = Link(20);
  vms_.HandOver("db", target);
  vms_.Unregister(source.get());
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
  vms_.SetActiveMigration("db", "");
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
}

TEST_F(VmDirectoryTest, ASourceThatDiesFirstIsHiddenUntilTheTargetTakesOver) {
  auto source = MigratingVm();
  source->Close();
  vms_.Unregister(source.get());
  EXPECT_FALSE(vms_.Get("db").ok());
  EXPECT_TRUE(vms_.List().empty());
  EXPECT_EQ(ReasonOf(vms_.Register(Vm("db", 30), "", Link(30))), reason::kVmIdTaken)
      << "nobody else may slip in while the migration is under way";
  auto target = Link(20);
  vms_.HandOver("db", target);
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
}

TEST_F(VmDirectoryTest, AVmInItsHandoverIsListedUnderItsOwnerWhetherItIsConnectedOrNot) {
  auto source = MigratingVm();
  vms_.KeepListed("db");
  source->Close();
  vms_.Unregister(source.get());
  EXPECT_EQ(vms_.Get("db")->process.pid, 10);
  auto target = Link(20);
  vms_.HandOver("db", target);
  target->Close();
  vms_.Unregister(target.get());
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
  EXPECT_EQ(vms_.Get("db")->active_migration, kMigration);
  EXPECT_EQ(vms_.List().size(), 1u);
  EXPECT_EQ(ReasonOf(vms_.LinkOf("db").status()), reason::kVmNotFound) << "nobody to talk to";
}

TEST_F(VmDirectoryTest, AVmThatNobodyHasIsHiddenUntilSomebodyHasIt) {
  MigratingVm();
  auto target = Link(20);
  vms_.HandOver("db", target);
  vms_.LoseOwner("db");
  EXPECT_TRUE(vms_.Get("db").ok()) << "its VMM is there";
  target->Close();
  vms_.Unregister(target.get());
  EXPECT_FALSE(vms_.Get("db").ok());
  EXPECT_TRUE(vms_.List().empty());
  vms_.HandOver("db", Link(30));
  EXPECT_EQ(vms_.Get("db")->process.pid, 30);
}

TEST_F(VmDirectoryTest, ASecondHandOverToAnOldConnectionLeavesTheNewOne) {
  MigratingVm();
  auto first = Link(20), second = Link(20);
  vms_.HandOver("db", first);
  first->Close();
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, second).ok());
  vms_.HandOver("db", first);
  EXPECT_EQ(vms_.LinkOf("db")->get(), second.get());
  vms_.SetActiveMigration("db", "");
  EXPECT_TRUE(vms_.Get("db").ok());
}

TEST_F(VmDirectoryTest, AVmWithoutAVmmIsGoneWhenItsMigrationEnds) {
  auto source = MigratingVm();
  vms_.Unregister(source.get());
  vms_.SetActiveMigration("db", "");
  EXPECT_TRUE(vms_.List().empty());
  EXPECT_TRUE(vms_.Register(Vm("db", 30), "", Link(30)).ok());
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
}

TEST_F(VmDirectoryTest, ATargetThatDiedBeforeTheHandOverDoesNotStayListed) {
  MigratingVm();
  auto target = Link(20);
  target->Close();
  vms_.Unregister(target.get());
  vms_.HandOver("db", target);
  vms_.SetActiveMigration("db", "");
  EXPECT_FALSE(vms_.Get("db").ok());
}

// A target that finds back to the daemon between the last look for it and the end of its migration.
TEST_F(VmDirectoryTest, ATargetThatWasLetInWhileNobodyWasThereHasTheVmWhenTheMigrationEnds) {
  auto source = MigratingVm();
  source->Close();
  vms_.Unregister(source.get());
  auto late = Link(20, "2");
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, late).ok());
  EXPECT_FALSE(vms_.Get("db").ok()) << "the migration has not said whose it is";
  const uint64_t before = vms_.revision();
  vms_.SetActiveMigration("db", "");
  ASSERT_TRUE(vms_.Get("db").ok()) << "it was told that it is registered";
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
  EXPECT_EQ(vms_.Get("db")->active_migration, "");
  EXPECT_EQ(vms_.LinkOf("db")->get(), late.get());
  EXPECT_GT(vms_.revision(), before);
}

TEST_F(VmDirectoryTest, ATargetThatWasLetInHasTheVmWhenADeadSourceIsSeenToBeGoneAfterTheEnd) {
  auto source = MigratingVm();
  auto late = Link(20);
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, late).ok());
  vms_.SetActiveMigration("db", "");
  EXPECT_EQ(vms_.Get("db")->process.pid, 10);
  vms_.Unregister(source.get());
  ASSERT_TRUE(vms_.Get("db").ok());
  EXPECT_EQ(vms_.Get("db")->process.pid, 20);
}

TEST_F(VmDirectoryTest, AHandOverToAConnectionThatIsOverGoesToTheOneThatCameInItsPlace) {
  MigratingVm();
  auto first = Link(20), second = Link(20);
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, second).ok());
  first->Close();
  vms_.HandOver("db", first);
  EXPECT_EQ(vms_.LinkOf("db")->get(), second.get());
}

TEST_F(VmDirectoryTest, OnlyALivingTargetWaitsAndOnlyOne) {
  auto source = MigratingVm();
  auto first = Link(20), second = Link(21);
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, first).ok());
  EXPECT_EQ(ReasonOf(vms_.Register(Vm("db", 21), kMigration, second)), reason::kVmIdTaken)
      << "not both can be registered";
  vms_.Unregister(first.get());
  EXPECT_TRUE(vms_.Register(Vm("db", 21), kMigration, second).ok());
  second->Close();
  vms_.Unregister(source.get());
  vms_.SetActiveMigration("db", "");
  EXPECT_FALSE(vms_.Get("db").ok()) << "a closed connection is nobody";
}

TEST_F(VmDirectoryTest, ATargetOfAnEarlierMigrationDoesNotStandInTheNextOnesWay) {
  auto source = MigratingVm();
  auto left_over = Link(20), next = Link(21);
  ASSERT_TRUE(vms_.Register(Vm("db", 20), kMigration, left_over).ok());
  vms_.SetActiveMigration("db", "");
  vms_.SetActiveMigration("db", "m-0000000000000002");
  EXPECT_TRUE(vms_.Register(Vm("db", 21), "m-0000000000000002", next).ok());
}

TEST_F(VmDirectoryTest, AReservedVmIsSeenOnceItsSourceOrItsTargetIsThere) {
  vms_.Reserve(Vm("db", 10), kMigration);
  EXPECT_FALSE(vms_.Get("db").ok());
  EXPECT_TRUE(vms_.List().empty());
  EXPECT_EQ(ReasonOf(vms_.Register(Vm("db", 30), "", Link(30))), reason::kVmIdTaken);
  EXPECT_TRUE(vms_.Register(Vm("db", 20), kMigration, Link(20)).ok());
  EXPECT_FALSE(vms_.Get("db").ok()) << "whoever knows the migration's id is let in, and no more";
  ASSERT_TRUE(vms_.Register(Vm("db", 10), "", Link(10)).ok());
  EXPECT_EQ(vms_.Get("db")->active_migration, kMigration);

  vms_.Reserve(Vm("cache", 11), kMigration);
  vms_.HandOver("cache", Link(21, "2"));
  EXPECT_EQ(vms_.Get("cache")->process.pid, 21);
  EXPECT_EQ(vms_.Get("cache")->vcpu_count, 2u) << "from the journal";
  vms_.SetActiveMigration("cache", "");
  EXPECT_TRUE(vms_.Get("cache").ok());
}

TEST_F(VmDirectoryTest, AReservationEndsWithItsMigrationAndIsNotBounded) {
  VmDirectory small(/*max_vms=*/1);
  small.Reserve(Vm("a", 1), kMigration);
  small.Reserve(Vm("b", 2), kMigration);
  EXPECT_TRUE(small.Register(Vm("b", 2), "", Link(2)).ok());
  small.SetActiveMigration("a", "");
  EXPECT_EQ(ReasonOf(small.Register(Vm("a", 3), "", Link(3))), reason::kTooManyVms)
      << "b is there, and a is as unknown as any";
}

TEST_F(VmDirectoryTest, EveryVisibleChangeRaisesTheRevision) {
  uint64_t seen = vms_.revision();
  const auto raised = [&] {
    const uint64_t before = std::exchange(seen, vms_.revision());
    return seen > before;
  };
  auto source = MigratingVm();
  EXPECT_TRUE(raised());
  EXPECT_FALSE(raised());
  EXPECT_EQ(vms_.Get("db")->revision, seen);
  auto target = Link(20);
  vms_.HandOver("db", target);
  EXPECT_TRUE(raised());
  vms_.SetActiveMigration("db", "");
  EXPECT_TRUE(raised());
  vms_.Unregister(source.get());
  EXPECT_FALSE(raised()) << "the source had no entry any more";
  vms_.Unregister(target.get());
  EXPECT_TRUE(raised());
}

TEST_F(VmDirectoryTest, AWatcherIsWokenByAChangeAndReturnsAtOnceIfItMissedOne) {
  const uint64_t seen = vms_.revision();
  EXPECT_EQ(vms_.WaitForChange(seen, kNoWait), seen);
  std::thread registrar([&] { EXPECT_TRUE(vms_.Register(Vm("db", 10), "", Link(10)).ok()); });
  const uint64_t after = vms_.WaitForChange(seen, kBound);
  registrar.join();
  EXPECT_GT(after, seen);
  EXPECT_EQ(vms_.WaitForChange(seen, kBound), after);
}

TEST_F(VmDirectoryTest, OfManyProcessesThatWantOneIdExactlyOneGetsIt) {
  std::atomic<int> winners = 0;
  std::vector<std::thread> processes;
  for (int pid = 1; pid <= 8; ++pid) {
    processes.emplace_back([&, pid] {
      if (vms_.Register(Vm("db", pid), "", Link(pid)).ok()) ++winners;
    });
  }
  for (std::thread& process : processes) process.join();
  EXPECT_EQ(winners, 1);
}

}  // namespace
}  // namespace rehome
