// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/translate_trace.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "vmm/agent/handover_block.h"

namespace rehome {
namespace {

Migration SampleMigration() {
  Migration migration;
  migration.id = "m-1";
  migration.source = {.pid = 11, .start_ticks = 5, .pidfd_inode = 6};
  migration.source_vmm = "rehome-vmm 1.0";
  migration.target.pid = 22;
  migration.phases = {100, 200, 300, 400, 400, 600, 600, 700};
  return migration;
}

TEST(TranslateTrace, SaysAllThatIsKnown) {
  MigrationTrace trace;
  trace.steps = {{Step::kHandingOver, 50, 750}};
  trace.source.calls = {{.operation = REHOME_TRACE_KVM_GET_XSAVE2,
                         .vcpu = 0,
                         .thread = 7,
                         .begin_ns = 210,
                         .end_ns = 260},
                        {.operation = REHOME_TRACE_KVM_GET_CLOCK,
                         .vcpu = {},
                         .thread = 8,
                         .begin_ns = 270,
                         .end_ns = 290}};
  trace.target.dropped = 3;
  const v1::MigrationTrace proto = ToProto(trace, SampleMigration());
  EXPECT_EQ(proto.name(), "migrations/m-1/trace");
  ASSERT_EQ(proto.steps_size(), 1);
  EXPECT_EQ(proto.steps(0).name(), "HANDING_OVER");
  EXPECT_EQ(proto.steps(0).begin_monotonic_ns(), 50);
  EXPECT_EQ(proto.steps(0).end_monotonic_ns(), 750);
  ASSERT_EQ(proto.source().calls_size(), 2);
  EXPECT_EQ(proto.source().calls(0).operation(), "KVM_GET_XSAVE2");
  EXPECT_TRUE(proto.source().calls(0).has_vcpu());
  EXPECT_EQ(proto.source().calls(0).vcpu(), 0);
  EXPECT_EQ(proto.source().calls(0).thread(), 7);
  EXPECT_EQ(proto.source().calls(0).begin_monotonic_ns(), 210);
  EXPECT_EQ(proto.source().calls(0).end_monotonic_ns(), 260);
  EXPECT_FALSE(proto.source().calls(1).has_vcpu());
  EXPECT_EQ(proto.source().process().pid(), 11);
  EXPECT_EQ(proto.source().process().vmm(), "rehome-vmm 1.0");
  EXPECT_EQ(proto.target().process().pid(), 22);
  EXPECT_EQ(proto.target().dropped_calls(), 3);
  EXPECT_EQ(proto.threshold_ns(), REHOME_TRACE_THRESHOLD_NS);
}

TEST(TranslateTrace, NamesThePhases) {
  const v1::MigrationTrace proto = ToProto({}, SampleMigration());
  const std::vector<std::string> names = {"stop_vcpus",    "save_state", "claim", "move",
                                          "restore_state", "fence",      "resume"};
  ASSERT_EQ(proto.phases_size(), 7);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(proto.phases(i).name(), names[static_cast<size_t>(i)]);
    EXPECT_EQ(proto.phases(i).end_monotonic_ns(),
              i == 6 ? 700 : proto.phases(i + 1).begin_monotonic_ns());
  }
}

TEST(TranslateTrace, ShowsPhasesAsFarAsTheyWereReached) {
  Migration migration = SampleMigration();
  migration.phases = {100, 200, 300, 0, 0, 0, 0, 0};
  EXPECT_EQ(ToProto({}, migration).phases_size(), 2);
  migration.phases = {};
  EXPECT_EQ(ToProto({}, migration).phases_size(), 0);
  migration.phases = {100, 50, 300, 400, 400, 600, 600, 700};
  EXPECT_EQ(ToProto({}, migration).phases_size(), 0);
}

}  // namespace
}  // namespace rehome
