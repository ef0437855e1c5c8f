// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstring>
#include <vector>

#include "bench/linux_guest/chain.h"
#include "bench/linux_guest/disk_record.h"
#include "bench/linux_guest/guest_account.h"
#include "bench/linux_guest/pattern.h"
#include "gtest/gtest.h"

namespace rehome::linux_guest {
namespace {

constexpr uint64_t kRun = 0x1234'5678'9abc'def0;

TEST(PatternTest, AShorterPatternIsTheBeginningOfALongerOne) {
  std::array<std::byte, 100> whole;
  std::array<std::byte, 37> part;
  FillPattern(7, whole);
  FillPattern(7, part);
  EXPECT_EQ(memcmp(whole.data(), part.data(), part.size()), 0);
  FillPattern(8, part);
  EXPECT_NE(memcmp(whole.data(), part.data(), part.size()), 0);
}

TEST(ChecksumTest, EveryByteCounts) {
  std::vector<std::byte> bytes(29);
  FillPattern(1, bytes);
  const uint64_t sum = Checksum(bytes);
  for (std::byte& byte : bytes) {
    byte ^= std::byte{1};
    EXPECT_NE(Checksum(bytes), sum);
    byte ^= std::byte{1};
  }
  EXPECT_EQ(Checksum(bytes), sum);
  bytes.push_back(std::byte{0});
  EXPECT_NE(Checksum(bytes), sum);
}

TEST(ChainTest, TheShortWayLeadsWhereTheLongOneDoes) {
  ChainState state = ChainStart(kRun, 3);
  EXPECT_EQ(ChainAfter(kRun, 3, 0), state);
  for (const uint64_t steps : {1, 2, 5, 1000, 12345}) {
    AdvanceChain(state, steps);
    EXPECT_EQ(ChainAfter(kRun, 3, state.steps), state) << state.steps;
  }
  EXPECT_EQ(state.steps, 13353u);
}

TEST(ChainTest, ABitThatWasWrongOnceStaysWrongInItsLane) {
  for (size_t lane = 0; lane < kLanes; ++lane) {
    ChainState state = ChainStart(kRun, 0);
    AdvanceChain(state, 100);
    state.lanes[lane] ^= uint64_t{1} << 63;
    AdvanceChain(state, 10000);
    const ChainState wanted = ChainAfter(kRun, 0, state.steps);
    for (size_t other = 0; other < kLanes; ++other) {
      EXPECT_EQ(state.lanes[other] != wanted.lanes[other], other == lane);
    }
  }
}

TEST(ChainTest, VcpusAndBootsDiffer) {
  EXPECT_NE(ChainStart(kRun, 0), ChainStart(kRun, 1));
  EXPECT_NE(ChainStart(kRun, 0), ChainStart(kRun + 1, 0));
}

TEST(RecordTest, SaysHowItIsWrong) {
  std::array<std::byte, kRecordBytes> record;
  MakeRecord(kRun, 17, record);
  EXPECT_EQ(RecordFault(kRun, 17, record), "");
  EXPECT_EQ(RecordFault(kRun, 18, record), "record 17 is there");
  EXPECT_EQ(RecordFault(kRun + 1, 17, record), "a record of another boot is there");
  record[4000] ^= std::byte{4};
  EXPECT_EQ(RecordFault(kRun, 17, record), "its byte 4000 is wrong");
  record.fill(std::byte{0});
  EXPECT_EQ(RecordFault(kRun, 17, record), "no record is there");
}

TEST(GuestAccountTest, ComesBackFromItsLine) {
  GuestAccount account;
  account.Set("echo_bytes", 17);
  account.SetText("first", "a line\nwith blanks");
  const ChainState chain = ChainAfter(kRun, 1, 1000);
  account.SetChain(1, chain);
  const std::optional<GuestAccount> parsed = GuestAccount::Parse(account.ToLine());
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->Number("echo_bytes"), 17u);
  EXPECT_EQ(parsed->Text("first"), "a_line_with_blanks");
  EXPECT_EQ(parsed->Chain(1), chain);
  EXPECT_EQ(parsed->Chain(0), std::nullopt);
  EXPECT_EQ(parsed->Number("first"), std::nullopt);
  EXPECT_EQ(parsed->Number("missing"), std::nullopt);
}

TEST(GuestAccountTest, RefusesWhatIsNoAccount) {
  EXPECT_FALSE(GuestAccount::Parse("a=1 b").has_value());
  EXPECT_FALSE(GuestAccount::Parse("=1").has_value());
  EXPECT_FALSE(GuestAccount::Parse("a=1 a=2").has_value());
  EXPECT_FALSE(GuestAccount::Parse("a=1  b=2").has_value());
  EXPECT_EQ(GuestAccount::Parse("chain0=5:1:2:3")->Chain(0), std::nullopt);
  EXPECT_EQ(GuestAccount::Parse("chain0=5:1:2:3:4:5")->Chain(0), std::nullopt);
}

}  // namespace
}  // namespace rehome::linux_guest
