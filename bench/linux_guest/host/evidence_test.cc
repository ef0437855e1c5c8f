// SPDX-License-Identifier: Apache-2.0
//
// Whoever gathers the evidence finds what is wrong.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/linux_guest/chain.h"
#include "bench/linux_guest/console_line.h"
#include "bench/linux_guest/disk_record.h"
#include "bench/linux_guest/host/console_watch.h"
#include "bench/linux_guest/host/disk_check.h"
#include "bench/linux_guest/host/echo_driver.h"
#include "bench/linux_guest/host/echo_stream.h"
#include "bench/linux_guest/host/progress.h"
#include "bench/linux_guest/init/echo_server.h"
#include "gtest/gtest.h"
#include "tests/harness/process.h"

namespace rehome::linux_guest {
namespace {

constexpr uint64_t kRun = 99;
constexpr std::chrono::milliseconds kTimeout{30'000};

// --- the stream ---

std::vector<std::byte> StreamOf(uint64_t seed, int frames) {
  EchoFrames maker(seed);
  std::vector<std::byte> stream;
  for (int i = 0; i < frames; ++i) {
    const std::span<const std::byte> frame = maker.Next();
    stream.insert(stream.end(), frame.begin(), frame.end());
  }
  return stream;
}

TEST(EchoComparerTest, TakesTheStreamInPiecesOfAnyLength) {
  const std::vector<std::byte> stream = StreamOf(1, 20);
  EchoComparer comparer(1);
  std::span<const std::byte> left(stream);
  for (size_t piece = 1; !left.empty(); piece = piece * 3 % 5003) {
    const size_t part = std::min(piece, left.size());
    ASSERT_TRUE(comparer.Accept(left.first(part))) << comparer.fault();
    left = left.subspan(part);
  }
  EXPECT_EQ(comparer.compared(), stream.size());
}

TEST(EchoComparerTest, FindsBytesThatAreLostDoubledOrChanged) {
  const std::vector<std::byte> stream = StreamOf(2, 20);
  const auto place = static_cast<ptrdiff_t>(stream.size() / 2);
  std::vector<std::byte> lost(stream.begin(), stream.begin() + place);
  lost.insert(lost.end(), stream.begin() + place + 1, stream.end());
  std::vector<std::byte> doubled = stream;
  doubled.insert(doubled.begin() + place, stream.begin() + place - 50, stream.begin() + place);
  std::vector<std::byte> changed = stream;
  changed[stream.size() / 2] ^= std::byte{0x10};
  for (const std::vector<std::byte>& wrong : {lost, doubled, changed}) {
    EchoComparer comparer(2);
    EXPECT_FALSE(comparer.Accept(wrong));
    EXPECT_NE(comparer.fault(), "");
    EXPECT_GE(comparer.compared(), stream.size() / 2);
    EXPECT_LT(comparer.compared(), stream.size() / 2 + 16);
    EXPECT_FALSE(comparer.Accept(stream));
  }
}

class EchoDriverTest : public ::testing::Test {
 protected:
  EchoDriverTest() {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    near_ = UniqueFd(pair[0]);
    far_ = UniqueFd(pair[1]);
  }
  UniqueFd near_;
  UniqueFd far_;
};

TEST_F(EchoDriverTest, AgreesWithTheGuestsServer) {
  Counters counters;
  std::thread guest([&] {
    Connection connection(std::move(far_));
    ServeEcho(connection, counters);
  });
  const std::unique_ptr<EchoDriver> driver =
      EchoDriver::Start(std::move(near_), {.seed = 3, .bytes_per_second = 1 << 26});
  EXPECT_TRUE(driver->AwaitBeyond(1 << 20, kTimeout));
  const EchoResult result = driver->Stop(kTimeout);
  guest.join();
  EXPECT_EQ(result.fault, "");
  EXPECT_TRUE(result.ended);
  EXPECT_FALSE(result.reset);
  EXPECT_GT(result.bytes_sent, uint64_t{1} << 20);
  EXPECT_EQ(result.bytes_compared, result.bytes_sent);
  EXPECT_EQ(counters.echo_bytes, result.bytes_sent);
  EXPECT_EQ(counters.echo_frames, result.frames_sent);
  EXPECT_EQ(counters.echo_ended, 1u);
}

TEST_F(EchoDriverTest, FindsAByteThatIsSwallowed) {
  std::thread guest([&] {
    std::vector<std::byte> buffer(1 << 16);
    bool swallowed = false;
    for (;;) {
      const ssize_t count = recv(far_.borrow().raw(), buffer.data(), buffer.size(), 0);
      if (count <= 0) return;
      const size_t skip = swallowed ? 0 : 1;
      swallowed = true;
      send(far_.borrow().raw(), buffer.data() + skip, static_cast<size_t>(count) - skip,
           MSG_NOSIGNAL);
    }
  });
  const std::unique_ptr<EchoDriver> driver =
      EchoDriver::Start(std::move(near_), {.seed = 4, .bytes_per_second = 1 << 26});
  EXPECT_FALSE(driver->AwaitBeyond(1 << 20, kTimeout));
  const EchoResult result = driver->Stop(kTimeout);
  guest.join();
  EXPECT_NE(result.fault, "");
  EXPECT_LT(result.bytes_compared, 8u);
}

TEST_F(EchoDriverTest, FindsAPeerThatGoes) {
  const std::unique_ptr<EchoDriver> driver = EchoDriver::Start(std::move(near_), {.seed = 5});
  far_.Reset();
  EXPECT_FALSE(driver->AwaitBeyond(1 << 30, kTimeout));
  const EchoResult result = driver->Stop(kTimeout);
  EXPECT_LT(result.bytes_compared, result.bytes_sent + 1);
  EXPECT_TRUE(result.reset || !result.ended || result.bytes_sent == result.bytes_compared);
}

// --- the disk ---

class DiskCheckTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSlots = 8;
  DiskCheckTest() {
    const UniqueFd file = Open();
    EXPECT_EQ(ftruncate(file.borrow().raw(), kSlots * kRecordBytes), 0);
  }
  UniqueFd Open() const {
    return UniqueFd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  }
  void Put(uint64_t slot, uint64_t sequence, uint64_t run = kRun) const {
    std::array<std::byte, kRecordBytes> record;
    MakeRecord(run, sequence, record);
    PutBytes(slot, record);
  }
  void PutBytes(uint64_t slot, std::span<const std::byte> bytes) const {
    const auto place = static_cast<off_t>(slot * kRecordBytes);
    EXPECT_EQ(pwrite(Open().borrow().raw(), bytes.data(), bytes.size(), place),
              static_cast<ssize_t>(bytes.size()));
  }
  void Append(uint64_t count) const {
    for (uint64_t i = 0; i < count; ++i) Put(i % kSlots, i);
  }
  DiskResult Check(uint64_t durable) const { return *CheckDisk(path_, kRun, durable); }

  harness::TempDir directory_;
  const std::string path_ = directory_.File("disk");
};

TEST_F(DiskCheckTest, KnowsWhatBelongsIntoEachSlotAfterAnyNumberOfRecords) {
  for (uint64_t durable = 0; durable <= 2 * kSlots + 1; ++durable) {
    if (durable > 0) Put((durable - 1) % kSlots, durable - 1);
    const DiskResult result = Check(durable);
    EXPECT_EQ(result.faults, 0u) << durable << ": " << result.first_fault;
    EXPECT_EQ(result.checked, std::min(durable, kSlots));
    EXPECT_EQ(result.file_slots, kSlots);
  }
}

TEST_F(DiskCheckTest, FindsARecordThatIsMissing) {
  Append(5);
  const DiskResult result = Check(6);
  EXPECT_EQ(result.faults, 1u);
  EXPECT_EQ(result.first_fault, "slot 5: where record 5 belongs: no record is there");
}

TEST_F(DiskCheckTest, FindsARecordThatIsThereTwice) {
  Append(5);
  Put(5, 4);
  EXPECT_EQ(Check(5).first_fault, "slot 5: something that the guest has not written");
  Put(4, 3);
  EXPECT_EQ(Check(5).first_fault, "slot 4: where record 4 belongs: record 3 is there");
}

TEST_F(DiskCheckTest, FindsAnOldWriteThatCameAgain) {
  Append(kSlots + 3);
  Put(1, 1);
  EXPECT_EQ(Check(kSlots + 3).first_fault, "slot 1: where record 9 belongs: record 1 is there");
}

TEST_F(DiskCheckTest, FindsAByteAndARecordOfAnotherBoot) {
  Append(5);
  const std::byte wrong[] = {std::byte{1}, std::byte{2}};
  PutBytes(2, wrong);
  Put(3, 3, kRun + 1);
  const DiskResult result = Check(5);
  EXPECT_EQ(result.faults, 2u);
  EXPECT_EQ(result.checked, 3u);
}

TEST_F(DiskCheckTest, AFileThatIsNotThereIsAnError) {
  EXPECT_FALSE(CheckDisk(path_ + ".none", kRun, 1).ok());
}

// --- the console ---

std::string TickOf(uint64_t number) {
  return "rehome: " + TickLine({.number = number, .mono_ns = number * 1000});
}

class ConsoleLogTest : public ::testing::Test {
 protected:
  ConsoleLogTest() {
    log_.Add("[    0.1] Linux version 6.12");
    log_.Add("rehome: ready 0000000000000063\r");
    log_.Add(TickOf(1));
    log_.Add(TickOf(2) + "\r");
  }
  ConsoleLog log_;
};

TEST_F(ConsoleLogTest, CountsWhatCame) {
  log_.ExpectPong("7");
  log_.Add("rehome: pong 7");
  EXPECT_EQ(log_.result().run, 99u);
  EXPECT_EQ(log_.result().first_tick, 1u);
  EXPECT_EQ(log_.result().last_tick, 2u);
  EXPECT_EQ(log_.result().ticks, 2u);
  EXPECT_EQ(log_.result().pongs, 1u);
  EXPECT_EQ(log_.result().first_fault, "");
}

TEST_F(ConsoleLogTest, FindsALineThatIsMissing) {
  log_.Add(TickOf(4));
  EXPECT_EQ(log_.result().missing, 1u);
  EXPECT_EQ(log_.result().first_fault, "tick 4 after tick 2");
}

TEST_F(ConsoleLogTest, FindsALineThatCameTwice) {
  log_.Add(TickOf(2));
  EXPECT_EQ(log_.result().again, 1u);
  EXPECT_EQ(log_.result().ticks, 2u);
}

TEST_F(ConsoleLogTest, FindsALostCharacterWhereverItWas) {
  const std::string whole = TickOf(3);
  for (size_t place = 0; place < whole.size(); ++place) {
    ConsoleLog log = log_;
    std::string line = whole;
    line.erase(place, 1);
    log.Add(line);
    EXPECT_EQ(log.result().damaged, 1u) << line;
  }
}

TEST_F(ConsoleLogTest, FindsAClockThatWentBack) {
  log_.Add("rehome: " + TickLine({.number = 3, .mono_ns = 1999}));
  EXPECT_EQ(log_.result().first_fault, "the clock went back at tick 3");
}

TEST_F(ConsoleLogTest, FindsASecondBootAndAnAnswerThatIsNotDue) {
  ConsoleLog log = log_;
  log.Add("rehome: ready 0000000000000064");
  EXPECT_EQ(log.result().first_fault, "the guest has booted again");
  log_.ExpectPong("8");
  log_.Add("rehome: pong 7");
  EXPECT_EQ(log_.result().pongs, 0u);
  EXPECT_EQ(log_.result().first_fault, "an answer that is not due: 7");
}

// --- whether the guest goes on ---

class ProgressTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kVcpus = 3;
  static GuestAccount AccountOf(uint64_t records, uint64_t steps) {
    GuestAccount account;
    account.Set("disk_durable", records);
    account.Set("vcpus", kVcpus);
    for (uint32_t i = 0; i < kVcpus; ++i) account.SetChain(i, ChainAfter(kRun, i, steps));
    return account;
  }
  const GuestAccount before_ = AccountOf(5, 100);
  GuestAccount now_ = AccountOf(6, 101);
};

TEST_F(ProgressTest, AllOfItWentOn) { EXPECT_EQ(WhatStandsStill(before_, now_), ""); }

TEST_F(ProgressTest, FindsEachVcpuThatStandsStill) {
  for (uint32_t i = 0; i < kVcpus; ++i) {
    GuestAccount now = now_;
    now.SetChain(i, *before_.Chain(i));
    EXPECT_EQ(WhatStandsStill(before_, now), "vCPU " + std::to_string(i) + " stands still");
  }
}

TEST_F(ProgressTest, FindsADiskThatStandsStill) {
  now_.Set("disk_durable", 5);
  EXPECT_EQ(WhatStandsStill(before_, now_), "the disk stands still");
}

TEST_F(ProgressTest, WhatIsNotToldStandsStill) {
  now_.Set("vcpus", kVcpus - 1);
  EXPECT_EQ(WhatStandsStill(before_, now_), "the guest does not tell its vCPUs");
  EXPECT_NE(WhatStandsStill({}, AccountOf(1, 1)), "");
}

}  // namespace
}  // namespace rehome::linux_guest
