// SPDX-License-Identifier: Apache-2.0
//
// What the preloaded library counts: a test that holds a daemon at its first append must not hold
// it before that.
#include <gtest/gtest.h>

#include <memory>

#include "tests/crash_sweep/journal_crash_file.h"
#include "tests/harness/host_under_test.h"

namespace rehome {
namespace {

class JournalCrashTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the library would come before the sanitizer's";
#endif
    auto file = JournalCrashFile::Create();
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    file_->page().armed.store(1);
    auto host = harness::HostUnderTest::Start(
        {.kernel = "sim", .daemon_environment = file_->DaemonEnvironment()});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
  }
  std::unique_ptr<JournalCrashFile> file_;
  std::unique_ptr<harness::HostUnderTest> host_;
};

TEST_F(JournalCrashTest, TheTransactionsOfTheSchemaAreNoAppends) {
  EXPECT_EQ(file_->page().appends.load(), 0u);
}

TEST_F(JournalCrashTest, EachStepOfAMigrationIsOne) {
  auto vmm = host_->StartVmm({.memory_mib = 8});
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  const auto record = host_->Migrate("guest", harness::ProfileOfVersion(2),
                                     v1::Migration::FENCE_POLICY_UNSPECIFIED);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->state(), v1::Migration::SUCCEEDED) << record->ShortDebugString();
  // QUEUED, PREFLIGHT, LAUNCHING, PREPARING_TARGET, ARMING, HANDING_OVER, FIRST_RUN, FENCING, DONE.
  EXPECT_EQ(file_->page().appends.load(), 9u);
}

}  // namespace
}  // namespace rehome
