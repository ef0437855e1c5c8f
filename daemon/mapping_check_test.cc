// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "daemon/fence.h"
#include "daemon/testing/child_harness.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::HasSubstr;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 4;

// Maps a file of four pages into this process and describes that as slot 7.
class VerifyMappingsTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
    ASSERT_TRUE(pidfd.ok());
    pidfd_ = *std::move(pidfd);
    Map(memory_, MAP_SHARED, 0);
  }
  void TearDown() override { munmap(address_, kPages * kPage); }

  void Map(const UniqueFd& file, int flags, off_t offset) {
    if (address_ != nullptr) flags |= MAP_FIXED;
    address_ =
        mmap(address_, kPages * kPage, PROT_READ | PROT_WRITE, flags, file.borrow().raw(), offset);
    ASSERT_NE(address_, MAP_FAILED);
  }
  Memslot Slot() const {
    absl::StatusOr<FileIdentity> file = Identify(memory_.borrow());
    EXPECT_TRUE(file.ok());
    return {.slot = 7,
            .size_bytes = kPages * kPage,
            .inode = file->id,
            .hva = reinterpret_cast<uint64_t>(address_)};
  }
  void ExpectMismatch(const Memslot& slot, const std::string& what) {
    const absl::Status status = VerifyMappings(pidfd_.borrow(), {.slots = {slot}});
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), "MAPPING_MISMATCH");
    EXPECT_THAT(std::string(status.message()), HasSubstr("slot 7"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }

  UniqueFd memory_ = testing_support::MakeMemfd(kPages + 1);
  UniqueFd pidfd_;
  void* address_ = nullptr;
};

TEST_F(VerifyMappingsTest, AcceptsWhatIsMappedAsDescribed) {
  Memslot second_half = Slot();
  second_half.slot = 8;
  second_half.hva += 2 * kPage;
  second_half.offset = 2 * kPage;
  second_half.size_bytes = 2 * kPage;
  const absl::Status status = VerifyMappings(pidfd_.borrow(), {.slots = {second_half, Slot()}});
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(VerifyMappingsTest, AcceptsAMappingInSeveralPieces) {
  char* second_page = static_cast<char*>(address_) + kPage;
  ASSERT_EQ(mprotect(second_page, kPage, PROT_READ), 0);
  EXPECT_TRUE(VerifyMappings(pidfd_.borrow(), {.slots = {Slot()}}).ok());
}

TEST_F(VerifyMappingsTest, RefusesAnotherFile) {
  Map(testing_support::MakeMemfd(kPages), MAP_SHARED, 0);
  ExpectMismatch(Slot(), "of another file");
}

TEST_F(VerifyMappingsTest, RefusesAnotherFileInTheMiddle) {
  const UniqueFd other = testing_support::MakeMemfd(1);
  void* middle = static_cast<char*>(address_) + kPage;
  ASSERT_EQ(mmap(middle, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, other.borrow().raw(), 0),
            middle);
  ExpectMismatch(Slot(), "of another file");
}

TEST_F(VerifyMappingsTest, RefusesAnotherPlaceInTheFile) {
  Map(memory_, MAP_SHARED, kPage);
  ExpectMismatch(Slot(), "another place in the file");
}

TEST_F(VerifyMappingsTest, RefusesAPrivateMapping) {
  Map(memory_, MAP_PRIVATE, 0);
  ExpectMismatch(Slot(), "is private");
}

TEST_F(VerifyMappingsTest, RefusesAHole) {
  char* last_page = static_cast<char*>(address_) + (kPages - 1) * kPage;
  ASSERT_EQ(munmap(last_page, kPage), 0);
  ExpectMismatch(Slot(), "nothing is mapped at");
}

TEST_F(VerifyMappingsTest, RefusesASlotThatIsNotMappedOrEndsNowhere) {
  Memslot slot = Slot();
  slot.hva = 0;
  ExpectMismatch(slot, "is not mapped");
  slot.hva = UINT64_MAX - kPage + 1;
  slot.size_bytes = 2 * kPage;
  ExpectMismatch(slot, "ends beyond 64 bits");
}

TEST_F(VerifyMappingsTest, SaysWhenTheProcessIsGone) {
  testing_support::TestChild child = testing_support::StartTestChild({"wait"});
  std::unique_ptr<Fence> fence = NewProcFence();
  ASSERT_TRUE(fence->Kill(child.pidfd.borrow()).ok());
  ASSERT_TRUE(fence->AwaitExit(child.pidfd.borrow(), testing_support::kPatience).ok());
  EXPECT_EQ(ReasonOf(VerifyMappings(child.pidfd.borrow(), {.slots = {Slot()}})), "PROCESS_GONE");
}

}  // namespace
}  // namespace rehome
