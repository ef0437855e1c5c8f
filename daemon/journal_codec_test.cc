// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal_codec.h"

#include <gtest/gtest.h>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// A record in which every field differs from its default.
Migration FullRecord() {
  Migration m;
  m.id = "m-0123456789abcdef";
  m.request = {"req-1",
               "db",
               "new",
               FencePolicy::kAfterResume,
               std::chrono::milliseconds(250),
               std::chrono::milliseconds(9000)};
  m.request.requested_by = "uid=0 pid=7";
  m.state = MigrationState::kCompleting;
  m.step = Step::kFencing;
  m.owner = GuestOwner::kTarget;
  m.revision = 9;
  m.cancel_requested = true;
  m.strategy = Strategy::kLinkMove;
  m.fence_policy = FencePolicy::kKernel;
  m.vm_type = VmType::kSwProtected;
  m.preflight = {{"a", PreflightCheck::Result::kPassed, "", "fine"},
                 {"b", PreflightCheck::Result::kFailed, "B_FAILED", "not fine"},
                 {"c", PreflightCheck::Result::kNotApplicable, "", ""}};
  m.source = {10, 11, 12};
  m.target = {20, 21, 22};
  m.source_vmm = "vmm 1";
  m.target_vmm = "vmm 2";
  m.memory_bytes = 1ull << 33;
  m.vcpu_count = 4;
  m.layout_digest = 0xfedcba9876543210ull;
  m.phases = {1, 2, 3, 4, 5, 6, 7, ~0ull};
  m.fence = {.kernel_vm_dead = true,
             .kernel_observer = {"source", {10, 11, 12}},
             .kernel_dead_seen_ns = 1,
             .process_exited = true,
             .stopped_before_resume = true,
             .stop_observer = {"target", {20, 21, 22}},
             .observer = {"rehomed", {30, 31, 32}},
             .source = {10, 11, 12},
             .kill_sent_ns = 2,
             .tasks_stopped_ns = 3,
             .exited_ns = 4,
             .search = {.memory = {{.inode = {5, 6},
                                    .holders = {{20, "vmm", "fd", HolderClass::kTarget},
                                                {30, "rehomed", "fd", HolderClass::kDaemon},
                                                {99, "leak", "mapping", HolderClass::kForeign}},
                                    .foreign = 7}},
                        .begun_ns = 8,
                        .init_shielded = true},
             .kernel_release = "6.1"};
  m.failure = {"SOME_REASON", "words"};
  m.outcome_after_rollback = MigrationState::kCancelled;
  m.journal_failure = {"JOURNAL_FULL", "no room"};
  m.create_time_unix_ns = 1'700'000'000'000'000'000;
  m.end_time_unix_ns = 1'700'000'001'000'000'000;
  m.boot_id = "01234567-89ab-cdef-0123-456789abcdef";
  m.memory_inodes = {{7, 8}, {7, 9}};
  m.armed_ns = 5;
  m.interrupted_step = Step::kHandingOver;
  m.restarts = 2;
  m.rescue = {1, {30, 31, 32}, {"TARGET_DIED", "words"}, true, {{"TARGET_DIED", "again"}}};
  return m;
}

Migration RoundTrip(const Migration& migration) {
  const auto decoded = DecodeRecord(EncodeRecord(migration));
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return decoded.value_or(Migration{});
}

TEST(JournalCodecTest, EveryFieldComesBackAsItWas) {
  EXPECT_EQ(RoundTrip(FullRecord()), FullRecord());
  EXPECT_EQ(RoundTrip(Migration{}), Migration{});
}

TEST(JournalCodecTest, EveryEnumValueComesBackAsItWas) {
  for (size_t i = 1; i <= kMigrationStateCount; ++i) {
    Migration m;
    m.state = static_cast<MigrationState>(i);
    EXPECT_EQ(RoundTrip(m).state, m.state);
  }
  for (size_t i = 1; i <= kStepCount; ++i) {
    Migration m;
    m.step = static_cast<Step>(i);
    m.interrupted_step = m.step;
    EXPECT_EQ(RoundTrip(m), m);
  }
  for (int i = 1; i <= 4; ++i) {
    Migration m;
    m.owner = static_cast<GuestOwner>(i);
    m.strategy = static_cast<Strategy>(i);
    m.fence_policy = static_cast<FencePolicy>(i - 1);
    EXPECT_EQ(RoundTrip(m), m);
  }
}

TEST(JournalCodecTest, AValueUnknownToThisVersionIsRefusedNotGuessedAt) {
  const auto refused = [](const Migration& m) {
    const auto decoded = DecodeRecord(EncodeRecord(m));
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kDataLoss);
    return ReasonOf(decoded.status()) == reason::kJournalCorrupt;
  };
  for (int value : {0, 200}) {
    Migration state, step, owner, strategy, outcome, check, holder;
    state.state = static_cast<MigrationState>(value);
    step.step = static_cast<Step>(value);
    owner.owner = static_cast<GuestOwner>(value);
    strategy.strategy = static_cast<Strategy>(value);
    outcome.outcome_after_rollback = static_cast<MigrationState>(value);
    check.preflight = {{"a", static_cast<PreflightCheck::Result>(value), "", ""}};
    holder.fence.search.memory = {
        {.inode = {}, .holders = {{1, "", "", static_cast<HolderClass>(value)}}, .foreign = 0}};
    for (const Migration& m : {state, step, owner, strategy, outcome, check, holder}) {
      EXPECT_TRUE(refused(m));
    }
  }
  Migration policy, requested, type;
  policy.fence_policy = static_cast<FencePolicy>(99);
  requested.request.fence_policy = static_cast<FencePolicy>(99);
  type.vm_type = static_cast<VmType>(99);
  for (const Migration& m : {policy, requested, type}) EXPECT_TRUE(refused(m));
}

TEST(JournalCodecTest, DamagedBytesAreRefused) {
  std::string bytes = EncodeRecord(FullRecord());
  EXPECT_FALSE(DecodeRecord(bytes.substr(0, bytes.size() / 2)).ok());
  EXPECT_FALSE(DecodeRecord("").ok());
  EXPECT_FALSE(DecodeRecord(std::string(100, '\xff')).ok());
  EXPECT_FALSE(DecodeRecord(std::string(kMaxRecordBytes + 1, '\0')).ok());
}

TEST(JournalCodecTest, TheLargestRecordFits) {
  const std::string huge(1 << 16, 'x');
  Migration m = FullRecord();
  m.request = {huge, huge, huge};
  m.request.requested_by = huge;
  m.preflight.assign(100, {huge, PreflightCheck::Result::kFailed, huge, huge});
  InodeSearch search{.inode = {5, 6}, .holders = {}, .foreign = 100};
  search.holders.assign(100, {1, huge, huge});
  m.fence.search.memory.assign(100, search);
  m.fence.observer.role = m.fence.kernel_observer.role = m.fence.stop_observer.role = huge;
  m.fence.kernel_release = m.source_vmm = m.target_vmm = m.boot_id = huge;
  m.failure = m.journal_failure = m.rescue.cause = {huge, huge};
  m.rescue.failed_attempts.assign(kMaxRescueAttempts, {huge, huge});
  m.memory_inodes.assign(100, {1, 2});
  const std::string bytes = EncodeRecord(m);
  EXPECT_LE(bytes.size(), kMaxRecordBytes);
  const Migration back = RoundTrip(m);
  EXPECT_EQ(back.failure.message.size(), kMaxRecordedTextBytes);
  EXPECT_EQ(back.preflight.size(), kMaxRecordedListItems);
  EXPECT_FALSE(back.fence.complete({{5, 6}})) << "cut, but still not a complete proof";
}

TEST(JournalCodecTest, TextThatIsNotUtf8IsMendedSoThatTheRecordCanBeRead) {
  const std::pair<std::string, std::string> cases[] = {
      {"plain", "plain"},
      {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
      {"\xf0\x9f\x9a\x80", "\xf0\x9f\x9a\x80"},
      {"a\xff"
       "b",
       "a?b"},
      {"cut \xc3", "cut ?"},
      {"overlong \xc0\xaf", "overlong ??"},
      {"surrogate \xed\xa0\x80", "surrogate ???"},
      {"beyond \xf4\x90\x80\x80", "beyond ????"},
      {std::string("nul \0 stays", 11), std::string("nul \0 stays", 11)},
  };
  for (const auto& [text, mended] : cases) {
    Migration m = FullRecord();
    m.failure.message = text;
    EXPECT_EQ(RoundTrip(m).failure.message, mended);
  }
}

TEST(JournalCodecTest, ACutNeverSplitsACharacter) {
  Migration m = FullRecord();
  m.failure.message = std::string(kMaxRecordedTextBytes - 1, 'x') + "\xc3\xbc";
  EXPECT_EQ(RoundTrip(m).failure.message, std::string(kMaxRecordedTextBytes - 1, 'x'));
}

TEST(JournalCodecTest, AnOrdinaryRecordStaysSmall) {
  Migration m = FullRecord();
  m.preflight.assign(20, {"layouts_equal", PreflightCheck::Result::kPassed, "",
                          "2 slots, 8192 MiB, digest 0123456789abcdef"});
  EXPECT_LE(EncodeRecord(m).size(), 2048u);
}

}  // namespace
}  // namespace rehome
