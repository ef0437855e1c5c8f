// SPDX-License-Identifier: Apache-2.0
//
// A target dies that had the guest and never ran it: a new one goes on from the saved state, the
// memory, and (with MOVE) the dead target's VM. With real VMM processes, on the kernel that the
// build names (REHOME_TEST_KERNEL), with every strategy that this kernel has.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/reference/meeting.h"
#include "vmm/reference/movement_rows.h"
#include "vmm/reference/vmm_harness.h"

namespace rehome {
namespace {

const std::string kKernel = REHOME_TEST_KERNEL;
constexpr int kKilled = 128 + SIGKILL;

using Row = MovementRow;

bool Moves(const Row& row) { return row.fence_policy == REHOME_FENCE_KERNEL; }

// Where the first target dies, and whether the source's process is dead by then.
struct Death {
  const char* place;
  bool source_dies;
  // The kernel has not moved the guest.
  bool before_move = false;
};

struct Case {
  Row row;
  Death death;
};

std::vector<Case> Cases() {
  const std::vector<Row> kStaying = {
      {"Map", {"--vcpus=2"}, REHOME_STRATEGY_MAP, REHOME_FENCE_AFTER_RESUME, true},
      {"MapMemfd", {"--memory-kind=memfd"}, REHOME_STRATEGY_MAP, REHOME_FENCE_BEFORE_RESUME, true},
      {"Link", {"--memories=2"}, REHOME_STRATEGY_LINK, REHOME_FENCE_BEFORE_RESUME, false},
  };
  // Without MOVE a source that lives takes the guest back itself.
  const std::vector<Death> kDeaths = {
      {"claimed", true, true}, {"moved", false},    {"moved", true},   {"committed", false},
      {"committed", true},     {"restored", false}, {"restored", true}};
  std::vector<Case> cases;
  for (const Row& row : WithMovingRows(kStaying, REHOME_TEST_KERNEL)) {
    for (const Death& death : kDeaths) {
      const bool possible = death.source_dies && std::strcmp(death.place, "moved") != 0;
      if (Moves(row) || possible) cases.push_back({row, death});
    }
  }
  return cases;
}

class RescueTest : public VmmTest, public testing::WithParamInterface<Case> {
 protected:
  RescueTest() : VmmTest(kKernel) {}
  void SetUp() override {
    VmmTest::SetUp();
    if (!IsSkipped()) harness_.emplace(kKernel, 1, row().options);
  }

  const Row& row() const { return GetParam().row; }
  const Death& death() const { return GetParam().death; }
  Hop MakeHop() const { return {.strategy = row().strategy, .fence_policy = row().fence_policy}; }

  // Up to the death of the target: nobody can run the guest now.
  void Strand() {
    Hop hop = MakeHop();
    hop.target_options = meeting_.Options({"ready"});
    hop.target_options.push_back(std::string("--die-at=") + death().place);
    ASSERT_TRUE(harness_->Launch(hop));
    ASSERT_EQ(harness_->Prepare(), 0u);
    ASSERT_TRUE(harness_->Arm() && harness_->Start());
    {
      const UniqueFd target = meeting_.Await("ready");
      if (death().source_dies) {
        harness_->source_process().Signal(SIGKILL);
        ASSERT_EQ(harness_->source_process().AwaitExit(), kKilled);
      }
    }
    ASSERT_EQ(harness_->target_process().AwaitExit(), kKilled);
    if (!death().source_dies) {
      ASSERT_TRUE(harness_->source().AwaitEvent(REHOME_EVENT_VM_DEAD));
    }
  }

  Meeting meeting_;
  std::optional<VmmHarness> harness_;
};

TEST_P(RescueTest, ANewTargetGoesOnWithTheGuestIntact) {
  Strand();
  if (HasFatalFailure()) return;
  ASSERT_TRUE(harness_->Rescue(MakeHop(), /*from_source=*/death().before_move));
  // The guest is as movable as ever.
  ASSERT_TRUE(harness_->Move(MakeHop()));
  EXPECT_EQ(harness_->EndGuest(), 0);
}

TEST_P(RescueTest, ARescuerThatDiesIsReplacedInItsTurn) {
  Strand();
  if (HasFatalFailure()) return;
  Hop hop = MakeHop();
  hop.target_options = {std::string("--die-at=") + (Moves(row()) ? "moved" : "restored")};
  ASSERT_TRUE(harness_->StartRescue(hop, death().before_move));
  ASSERT_EQ(harness_->target_process().AwaitExit(), kKilled);
  ASSERT_TRUE(harness_->Rescue(MakeHop(), /*from_source=*/false));
  EXPECT_EQ(harness_->EndGuest(), 0);
}

INSTANTIATE_TEST_SUITE_P(Deaths, RescueTest, testing::ValuesIn(Cases()), [](const auto& info) {
  std::string place = info.param.death.place;
  place[0] = static_cast<char>(std::toupper(place[0]));
  return info.param.row.name + place + (info.param.death.source_dies ? "SourceDead" : "");
});

// ---- a daemon that comes back has nothing, and gets everything from the VMMs ----

int CountRole(const rehome_vm& vm, uint32_t role) {
  return static_cast<int>(std::count_if(vm.fds, vm.fds + vm.fd_count,
                                        [role](const auto& fd) { return fd.entry.role == role; }));
}

class HandInTest : public VmmTest, public testing::WithParamInterface<const char*> {
 protected:
  HandInTest() : VmmTest(kKernel) {}
  // `named`: the sockets of the console that is plugged in, without a user.
  void ExpectHandsIn(VmmHarness& harness, FakeLink& link, int named) {
    auto vm = std::make_unique<rehome_vm>();
    ASSERT_EQ(link.HandIn(harness.migration(), vm.get()), 0u) << link.refusal_text();
    EXPECT_EQ(vm->layout_digest, harness.description().layout_digest);
    EXPECT_EQ(CountRole(*vm, REHOME_FD_VM), 1);
    EXPECT_EQ(CountRole(*vm, REHOME_FD_MEMORY), 2);
    EXPECT_EQ(CountRole(*vm, REHOME_FD_CONFIG), named);
    EXPECT_EQ(CountRole(*vm, REHOME_FD_NAMED), named);
    EXPECT_EQ(CountRole(*vm, REHOME_FD_BLOCK), 1);
  }
};

TEST_P(HandInTest, RealVmmsHandInAtEveryPlaceAndTheHandoverGoesOn) {
  Meeting meeting;
  VmmHarness harness(kKernel, 1, {"--memories=2"});
  Hop hop;
  hop.target_options = meeting.Options({GetParam()});
  ASSERT_TRUE(harness.Launch(hop));
  ASSERT_EQ(harness.Prepare(), 0u);
  ASSERT_TRUE(harness.Arm() && harness.Start());
  {
    const UniqueFd target = meeting.Await(GetParam());
    ASSERT_TRUE(harness.RestartDaemon());
    ExpectHandsIn(harness, harness.source(), 1);
    ExpectHandsIn(harness, harness.target(), 0);
    const auto probe = harness.target().Probe(harness.migration());
    ASSERT_TRUE(probe.has_value());
    EXPECT_EQ(probe->vm_alive, 1u);
    EXPECT_EQ(probe->guest_running, 0u);
  }
  ASSERT_TRUE(harness.Finish());
  EXPECT_EQ(harness.source().Probe(harness.migration())->guest_running, 1u);
  EXPECT_EQ(harness.EndGuest(), 0);
}

INSTANTIATE_TEST_SUITE_P(Places, HandInTest,
                         testing::Values("ready", "claimed", "restored", "committed", "running"));

// Both died before anybody knows whether the guest was moved: the kernel tells.
class WhichVmTest : public RescueTest {};

TEST_P(WhichVmTest, ATargetThatNeverGotTheGuestCannotBeMovedFromAndNothingIsLostByTrying) {
  Strand();
  if (HasFatalFailure()) return;
  ASSERT_TRUE(harness_->StartRescue(MakeHop(), /*from_source=*/false));
  EXPECT_TRUE(harness_->target().AwaitEvent(REHOME_EVENT_TAKE_OVER_FAILED));
  ASSERT_TRUE(harness_->target_process().AwaitExit().has_value());
  EXPECT_EQ(harness_->verdict(), static_cast<uint32_t>(REHOME_VERDICT_CLAIMED))
      << "there is no source to give it back to";
  ASSERT_TRUE(harness_->Rescue(MakeHop(), /*from_source=*/true));
  EXPECT_EQ(harness_->EndGuest(), 0);
}

std::vector<Case> MovingCases() {
  std::vector<Case> cases = Cases();
  std::erase_if(cases, [](const Case& c) { return !Moves(c.row) || !c.death.before_move; });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Types, WhichVmTest, testing::ValuesIn(MovingCases()),
                         [](const auto& info) { return std::string(info.param.row.name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WhichVmTest);

}  // namespace
}  // namespace rehome
