// SPDX-License-Identifier: Apache-2.0
//
// On the simulated kernel: what is tested is the harness.
#include "tests/harness/host_under_test.h"

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/harness/guest_probe.h"
#include "tests/harness/leftovers.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::chrono::milliseconds kSettleTimeout(10'000);
constexpr std::chrono::milliseconds kAtOnce(0);

class HostUnderTestTest : public testing::Test {
 protected:
  void SetUp() override {
    auto host = HostUnderTest::Start({.kernel = "sim"});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
  }
  StartedVmm StartVmm() {
    auto vmm = host_->StartVmm({.vm_type = "sw-protected", .memory_mib = 16});
    EXPECT_TRUE(vmm.ok()) << vmm.status();
    return vmm.ok() ? *std::move(vmm) : StartedVmm();
  }
  std::unique_ptr<HostUnderTest> host_;
};

TEST_F(HostUnderTestTest, NothingOfAMigrationIsLeft) {
  const StartedVmm vmm = StartVmm();
  const auto before = FootprintOf(*host_);
  ASSERT_TRUE(before.ok());
  const auto migration = host_->Migrate(vmm.vm_id, ProfileOfVersion(2), v1::Migration::KERNEL);
  ASSERT_TRUE(migration.ok()) << migration.status();
  ASSERT_EQ(migration->state(), v1::Migration::SUCCEEDED)
      << migration->DebugString() << host_->VmmLogs();
  EXPECT_FALSE(vmm.process.running());

  const pid_t target = host_->GetVm(vmm.vm_id)->process().pid();
  const auto probe = GuestProbe::Attach(target);
  ASSERT_TRUE(probe.ok()) << probe.status();
  const std::vector<InodeId> inodes = {probe->files()[0].inode};
  EXPECT_THAT(FindLeftovers(*host_, *before, {target}, inodes, kSettleTimeout), IsEmpty());

  EXPECT_TRUE(host_->ShutDown().ok());
  EXPECT_THAT(FindRemains(*host_, inodes), IsEmpty());
  EXPECT_THAT(host_->Processes(), IsEmpty());
}

TEST_F(HostUnderTestTest, EachKindOfLeftoverIsNamed) {
  const auto before = FootprintOf(*host_);
  ASSERT_TRUE(before.ok());
  EXPECT_THAT(FindLeftovers(*host_, *before, {}, {}, kSettleTimeout), IsEmpty());

  std::ofstream(host_->state_directory() + "/forgotten");
  EXPECT_THAT(FindLeftovers(*host_, *before, {}, {}, kAtOnce), ElementsAre(HasSubstr("forgotten")));
  std::filesystem::remove(host_->state_directory() + "/forgotten");

  const UniqueFd memory(memfd_create("memory", MFD_CLOEXEC));
  EXPECT_THAT(FindLeftovers(*host_, *before, {}, {Identify(memory.borrow())->id}, kAtOnce),
              ElementsAre(HasSubstr("holds guest memory: fd")));

  const StartedVmm vmm = StartVmm();
  EXPECT_THAT(FindLeftovers(*host_, *before, {}, {}, kAtOnce),
              testing::Contains(HasSubstr("(rehome-vmm-1)")));
  // Its connection and its pidfd, too.
  EXPECT_THAT(FindLeftovers(*host_, *before, {vmm.process.pid()}, {}, kAtOnce),
              testing::Contains(HasSubstr("descriptor of the daemon")));
}

TEST_F(HostUnderTestTest, StoppingAVmLetsTheDaemonForgetIt) {
  const StartedVmm vmm = StartVmm();
  ASSERT_TRUE(host_->StopVm(vmm.vm_id).ok());
  EXPECT_FALSE(vmm.process.running());
  EXPECT_TRUE(absl::IsNotFound(host_->GetVm(vmm.vm_id).status()));
}

TEST_F(HostUnderTestTest, TheDestructorEndsEveryProcessAndRemovesTheDirectory) {
  const StartedVmm vmm = StartVmm();
  ASSERT_TRUE(host_->Migrate(vmm.vm_id, ProfileOfVersion(2), v1::Migration::KERNEL).ok());
  const std::vector<pid_t> processes = host_->Processes();
  EXPECT_EQ(processes.size(), 2u);
  const std::string directory = host_->directory();
  host_.reset();
  for (const pid_t pid : processes) EXPECT_EQ(ExecutableName(pid), "") << pid;
  EXPECT_FALSE(std::filesystem::exists(directory));
}

TEST_F(HostUnderTestTest, ADaemonThatIsKilledComesBack) {
  const StartedVmm vmm = StartVmm();
  host_->KillDaemon();
  EXPECT_TRUE(vmm.process.running());
  ASSERT_TRUE(host_->StartDaemon().ok());
  EXPECT_TRUE(host_->client().GetHost().ok());
}

TEST(HostTest, ADaemonThatCannotStartSaysWhy) {
  const auto host = HostUnderTest::Start({.kernel = "sim", .daemon_lines = {"mispelled = 1"}});
  ASSERT_FALSE(host.ok());
  EXPECT_THAT(std::string(host.status().message()),
              AllOf(HasSubstr("rehomed has exited"), HasSubstr("mispelled")));
}

TEST(HostTest, AVmmThatCannotStartSaysWhy) {
  auto host = HostUnderTest::Start({.kernel = "sim"});
  ASSERT_TRUE(host.ok()) << host.status();
  const auto vmm = (*host)->StartVmm({.arguments = {"--no-such-option"}});
  ASSERT_FALSE(vmm.ok());
  EXPECT_THAT(std::string(vmm.status().message()), HasSubstr("--no-such-option"));
}

}  // namespace
}  // namespace rehome::harness
