// SPDX-License-Identifier: Apache-2.0
//
// An unmodified Linux in the reference VMM goes from VMM to VMM under rehomed, with two vCPUs, its
// console and a disk. Runs in the machine of //kernel, which is slow: every bound here allows for
// that. Arguments: --image=BZIMAGE --initramfs=FILE (init.c here).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/harness/console_client.h"
#include "tests/harness/host_under_test.h"
#include "tests/harness/process.h"

namespace rehome {
namespace {

using harness::ConsoleClient;
using harness::HostUnderTest;
using harness::ProfileOfVersion;
using harness::StartedVmm;
using v1::Migration;

constexpr std::chrono::milliseconds kBootPatience{400'000};
constexpr std::chrono::milliseconds kPatience{120'000};
constexpr off_t kDiskBytes = 1 << 20;
constexpr int kBeatsBetween = 5;

std::string image_path, initramfs_path;

// A line of the guest's.
struct Beat {
  unsigned long number = 0, ms = 0, went_back = 0, records = 0, errors = 0;
};

std::optional<Beat> ParseBeat(const std::string& line) {
  Beat beat;
  int end = 0;
  if (std::sscanf(line.c_str(), "beat %lu ms %lu back %lu disk %lu errors %lu%n", &beat.number,
                  &beat.ms, &beat.went_back, &beat.records, &beat.errors, &end) != 5 ||
      end != static_cast<int>(line.size())) {
    return std::nullopt;
  }
  return beat;
}

// One guest for all tests, as it takes long to boot.
class LinuxGuestTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // The first target dies when it has restored everything; where, is the first test's matter.
    auto host = HostUnderTest::Start(
        {.daemon_lines = {"handover_timeout_ms = 10000", "resolve_timeout_ms = 60000",
                          "deadline_ms = 600000"},
         .target_arguments = {"--die-at=restored", "--once=" + scratch_.File("died")}});
    ASSERT_TRUE(host.ok()) << host.status();
    host_ = *std::move(host);
    disk_ = host_->directory() + "/disk";
    const int fd = open(disk_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    ASSERT_EQ(ftruncate(fd, kDiskBytes), 0);
    close(fd);
    const auto start = std::chrono::steady_clock::now();
    auto vmm = host_->StartVmm(Guest("linux", 2));
    ASSERT_TRUE(vmm.ok()) << vmm.status();
    vmm_ = std::make_unique<StartedVmm>(*std::move(vmm));
    auto console = ConsoleClient::Attach(vmm_->console_path, kPatience);
    ASSERT_TRUE(console.ok()) << console.status();
    console_ = std::make_unique<ConsoleClient>(*std::move(console));
    const auto cpus = console_->ReadUntil("cpus ", kBootPatience);
    ASSERT_TRUE(cpus.ok()) << cpus.status() << host_->VmmLogs();
    EXPECT_NE(cpus->find("cpus 2"), std::string::npos) << *cpus;
    const std::chrono::duration<double> boot = std::chrono::steady_clock::now() - start;
    std::printf("from start to init: %.1f s\n", boot.count());
  }
  static void TearDownTestSuite() {
    if (host_ == nullptr) return;
    if (HasFailure()) std::printf("%s\n%s\n", host_->DaemonLog().c_str(), host_->VmmLogs().c_str());
    EXPECT_TRUE(host_->ShutDown().ok());
    console_.reset();
    vmm_.reset();
    host_.reset();
  }

  static harness::VmmOptions Guest(const std::string& vm_id, int version) {
    return {
        .vm_id = vm_id,
        .version = version,
        .memory_mib = 128,
        .vcpus = 2,
        .arguments = {"--memory-kind=memfd", "--linux=" + image_path,
                      "--initramfs=" + initramfs_path, "--disk=" + disk_,
                      "--cmdline=console=ttyS0 quiet loglevel=3 noxsave panic=-1 rdinit=/init"}};
  }

  void SetUp() override {
    if (console_ == nullptr) GTEST_SKIP() << "the guest has not booted";
  }

  // Reads so many beats: none is missing, and the guest has no complaint.
  void ExpectBeats(int count) {
    while (count > 0) {
      const auto line = console_->ReadLine(kPatience);
      ASSERT_TRUE(line.ok()) << line.status();
      const std::optional<Beat> beat = ParseBeat(*line);
      if (!beat) {
        ASSERT_EQ(line->find("beat"), std::string::npos) << *line;
        continue;
      }
      if (last_.number != 0) {
        EXPECT_EQ(beat->number, last_.number + 1) << *line;
        EXPECT_GE(beat->ms, last_.ms) << *line;
        EXPECT_EQ(beat->records, last_.records + 1) << *line;
      }
      EXPECT_EQ(beat->went_back, 0u) << *line;
      EXPECT_EQ(beat->errors, 0u) << *line;
      last_ = *beat;
      --count;
    }
  }
  void ExpectHears(const std::string& text) {
    ASSERT_TRUE(console_->Type(text + "\n").ok());
    for (;;) {
      const auto line = console_->ReadLine(kPatience);
      ASSERT_TRUE(line.ok()) << line.status();
      if (*line == "heard " + text) return;
      const std::optional<Beat> beat = ParseBeat(*line);
      ASSERT_TRUE(beat.has_value()) << *line;
      EXPECT_EQ(beat->number, last_.number + 1) << *line;
      last_ = *beat;
    }
  }

  static const harness::TempDir scratch_;
  static std::unique_ptr<HostUnderTest> host_;
  static std::unique_ptr<StartedVmm> vmm_;
  static std::unique_ptr<ConsoleClient> console_;
  static std::string disk_;
  static Beat last_;
};

const harness::TempDir LinuxGuestTest::scratch_;
std::unique_ptr<HostUnderTest> LinuxGuestTest::host_;
std::unique_ptr<StartedVmm> LinuxGuestTest::vmm_;
std::unique_ptr<ConsoleClient> LinuxGuestTest::console_;
std::string LinuxGuestTest::disk_;
Beat LinuxGuestTest::last_;

// Its devices were stopped, its interrupts let go, and both have to come back.
TEST_F(LinuxGuestTest, GoesOnWhereItWasWhenTheNextVmmDies) {
  ExpectBeats(kBeatsBetween);
  const auto record = host_->Migrate("linux", ProfileOfVersion(2), Migration::BEFORE_RESUME);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_NE(record->state(), Migration::SUCCEEDED) << record->DebugString();
  EXPECT_EQ(record->guest_owner(), Migration::SOURCE) << record->DebugString();
  EXPECT_TRUE(record->guest_paused());
  ExpectBeats(kBeatsBetween);
  ExpectHears("still here");
}

TEST_F(LinuxGuestTest, GoesOnInEachNextVmmWithItsConsoleAndItsDisk) {
  ExpectBeats(kBeatsBetween);
  EXPECT_GT(last_.records, 0u) << "it has found its disk";
  ExpectHears("before");
  for (int hop = 1; hop <= 5; ++hop) {
    const auto policy = hop % 2 == 0 ? Migration::AFTER_RESUME : Migration::BEFORE_RESUME;
    const auto record = host_->Migrate("linux", ProfileOfVersion(2), policy);
    ASSERT_TRUE(record.ok()) << record.status();
    ASSERT_EQ(record->state(), Migration::SUCCEEDED) << record->DebugString();
    ExpectBeats(kBeatsBetween);
    ExpectHears(absl::StrCat("hop ", hop));
    if (HasFatalFailure()) return;
  }
}

TEST_F(LinuxGuestTest, IsRefusedByAVmmThatLacksWhatItHas) {
  ExpectBeats(1);
  const auto record = host_->Migrate("linux", ProfileOfVersion(1), Migration::BEFORE_RESUME);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->state(), Migration::FAILED) << record->DebugString();
  EXPECT_NE(record->DebugString().find("STATE_FORMAT_UNSUPPORTED"), std::string::npos)
      << record->DebugString();
  EXPECT_EQ(
      record->error().message(),
      "the source VMM rehome-vmm 2.0 writes state format 3 for this guest, the target profile "
      "rehome-vmm-1 reads 1");
  EXPECT_FALSE(record->has_target()) << "nothing is started for what is refused";
  EXPECT_FALSE(record->guest_paused());
  ExpectBeats(kBeatsBetween);
}

TEST_F(LinuxGuestTest, ADiskHasOneGuest) {
  const auto second = host_->StartVmm(Guest("second", 2));
  EXPECT_FALSE(second.ok());
  EXPECT_NE(second.status().ToString().find("DISK_LOCKED"), std::string::npos) << second.status();
}

TEST_F(LinuxGuestTest, AVmmOfVersion1HasNoLinux) {
  harness::VmmOptions old = Guest("old", 1);
  std::erase(old.arguments, "--disk=" + disk_);
  const auto vmm = host_->StartVmm(old);
  EXPECT_FALSE(vmm.ok());
  EXPECT_NE(vmm.status().ToString().find("GUEST_UNSUPPORTED"), std::string::npos) << vmm.status();
}

}  // namespace
}  // namespace rehome

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--image=")) rehome::image_path = std::string(argument);
    if (absl::ConsumePrefix(&argument, "--initramfs=")) {
      rehome::initramfs_path = std::string(argument);
    }
  }
  return RUN_ALL_TESTS();
}
