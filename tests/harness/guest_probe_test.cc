// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/guest_probe.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"
#include "vmm/reference/guest_check.h"

namespace rehome::harness {
namespace {

constexpr std::chrono::milliseconds kTimeout(20'000);
constexpr uint64_t kFileBytes = 4 << 20;
constexpr uint32_t kVcpus = 2;

// This process as a VMM: guest memory in two files, and a thread that is every vCPU.
class GuestProbeTest : public testing::Test {
 protected:
  void SetUp() override {
    for (char*& memory : memory_) {
      UniqueFd file(memfd_create("kvm-gmem", MFD_CLOEXEC));
      ASSERT_EQ(ftruncate(file.borrow().raw(), kFileBytes), 0);
      void* address =
          mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.borrow().raw(), 0);
      ASSERT_NE(address, MAP_FAILED);
      memory = static_cast<char*>(address);
      inodes_.push_back(Identify(file.borrow())->id.inode);
    }
    rehome_guest_boot_info& boot =
        *reinterpret_cast<rehome_guest_boot_info*>(memory_[0] + REHOME_GUEST_BOOT_INFO);
    boot.magic = REHOME_GUEST_MAGIC;
    boot.vcpu_count = kVcpus;
    boot.ram_bytes = 2 * kFileBytes;
    boot.tsc_khz = 2'000'000;
    boot.memory_count = 2;
    for (size_t i = 0; i < 2; ++i) {
      boot.memory_bytes[i] = kFileBytes;
      boot.memory_inode[i] = inodes_[i];
    }
  }
  void TearDown() override {
    stop_ = true;
    if (guest_.joinable()) guest_.join();
    for (char* memory : memory_) munmap(memory, kFileBytes);
  }

  rehome_guest_mailbox& mailbox(uint32_t vcpu) {
    return *reinterpret_cast<rehome_guest_mailbox*>(memory_[0] + REHOME_GUEST_MAILBOXES +
                                                    vcpu * REHOME_GUEST_MAILBOX_STRIDE);
  }
  // As measure_gap() of the payload.
  void RunGuest(uint32_t vcpus) {
    guest_ = std::thread([this, vcpus] {
      while (!stop_) {
        for (uint32_t i = 0; i < vcpus; ++i) {
          volatile rehome_guest_mailbox& m = mailbox(i);
          if (m.gap_reset_request == m.gap_reset_done) continue;
          m.gap_max = 0;
          m.gap_reset_done = m.gap_reset_request;
        }
      }
    });
  }

  char* memory_[2] = {};
  std::vector<unsigned long> inodes_;
  std::atomic<bool> stop_ = false;
  std::thread guest_;
};

TEST_F(GuestProbeTest, FindsEveryFileOfTheGuestInItsOrder) {
  const auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  ASSERT_EQ(probe->files().size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(probe->files()[i].inode.inode, inodes_[i]);
    EXPECT_EQ(probe->files()[i].hva, reinterpret_cast<uint64_t>(memory_[i]));
    EXPECT_EQ(probe->files()[i].size_bytes, kFileBytes);
  }
}

TEST_F(GuestProbeTest, ReadsAcrossTheEndOfAFile) {
  memcpy(memory_[0] + kFileBytes - 4, "left", 4);
  memcpy(memory_[1], "right", 5);
  const auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  char text[9];
  ASSERT_TRUE(probe->Read(kFileBytes - 4, std::as_writable_bytes(std::span(text))).ok());
  EXPECT_EQ(std::string(text, sizeof(text)), "leftright");
  EXPECT_EQ(probe->Read(2 * kFileBytes - 4, std::as_writable_bytes(std::span(text))).code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(GuestProbeTest, TouchingAllocatesEveryPageOfEveryFile) {
  const auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  ASSERT_TRUE(probe->TouchAllPages().ok());
  for (char* memory : memory_) {
    std::vector<unsigned char> resident(kFileBytes / REHOME_GUEST_PAGE);
    ASSERT_EQ(mincore(memory, kFileBytes, resident.data()), 0);
    EXPECT_EQ(std::count(resident.begin(), resident.end(), 1), static_cast<long>(resident.size()));
  }
}

TEST_F(GuestProbeTest, ReportsTheLongestGapOfAllVcpusAndForgetsIt) {
  mailbox(0).gap_max = 500'000;
  mailbox(1).gap_max = 800'000;
  auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(probe->LongestGapUs().value(), 400);

  RunGuest(kVcpus);
  ASSERT_TRUE(probe->ResetGaps(kTimeout).ok());
  EXPECT_EQ(probe->LongestGapUs().value(), 0);
}

TEST_F(GuestProbeTest, AddsUpTheRoundsOfAllVcpus) {
  mailbox(0).rounds[rehome_guest_round_bucket(300)] = 5;
  mailbox(1).rounds[rehome_guest_round_bucket(300)] = 2;
  mailbox(1).rounds[REHOME_GUEST_ROUND_BUCKETS - 1] = 1;
  const auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  const auto counts = probe->RoundCounts();
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ((*counts)[rehome_guest_round_bucket(300)], 7u);
  EXPECT_EQ(counts->back(), 1u);
}

TEST_F(GuestProbeTest, AGuestThatStandsStillIsAskedToForgetForLater) {
  auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  mailbox(1).gap_max = 800'000;
  ASSERT_TRUE(probe->RequestReset().ok());
  EXPECT_EQ(mailbox(1).gap_max, 800'000u);
  for (uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_NE(mailbox(i).gap_reset_request, mailbox(i).gap_reset_done);
  }
}

TEST_F(GuestProbeTest, AVcpuThatDoesNotAnswerIsNamed) {
  auto probe = GuestProbe::Attach(getpid());
  ASSERT_TRUE(probe.ok()) << probe.status();
  RunGuest(1);
  const absl::Status reset = probe->ResetGaps(std::chrono::milliseconds(20));
  EXPECT_EQ(reset.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(reset.message().find("vCPU 1"), absl::string_view::npos) << reset;
}

TEST_F(GuestProbeTest, AProcessWithoutAGuestIsNotFound) {
  memset(memory_[0] + REHOME_GUEST_BOOT_INFO, 0, sizeof(uint64_t));
  EXPECT_EQ(GuestProbe::Attach(getpid()).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GuestProbeTest, AFileThatIsNotMappedIsNotFound) {
  reinterpret_cast<rehome_guest_boot_info*>(memory_[0] + REHOME_GUEST_BOOT_INFO)->memory_inode[1]++;
  EXPECT_EQ(GuestProbe::Attach(getpid()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace rehome::harness
