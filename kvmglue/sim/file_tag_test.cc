// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/file_tag.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

UniqueFd Memfd() { return UniqueFd(static_cast<int>(CreateSealedMemfd("test", 4096).value)); }

UniqueFd Reopened(const UniqueFd& fd) {
  return UniqueFd(static_cast<int>(ReopenInode(fd.borrow(), true).value));
}

constexpr FileTag kTag = {.kind = FileKind::kGuestMemfd,
                          .index = 511,
                          .vm_id = kMaxVmId,
                          .mappable = true,
                          .init_shared = false,
                          .gated = true};

void ExpectTag(BorrowedFd fd) {
  const FileTag tag = ReadTag(fd);
  EXPECT_EQ(tag.kind, kTag.kind);
  EXPECT_EQ(tag.index, kTag.index);
  EXPECT_EQ(tag.vm_id, kTag.vm_id);
  EXPECT_EQ(tag.mappable, kTag.mappable);
  EXPECT_EQ(tag.init_shared, kTag.init_shared);
  EXPECT_EQ(tag.gated, kTag.gated);
}

TEST(FileTagTest, TagIsReadBackAndSharedByDuplicates) {
  const UniqueFd fd = Memfd();
  ASSERT_TRUE(WriteTag(fd.borrow(), kTag).ok());
  ExpectTag(fd.borrow());
  const UniqueFd copy(dup(fd.borrow().raw()));
  ExpectTag(copy.borrow());
}

TEST(FileTagTest, TagTravelsToAnotherProcess) {
  const UniqueFd fd = Memfd();
  ASSERT_TRUE(WriteTag(fd.borrow(), kTag).ok());
  Child child([](BorrowedFd socket) {
    std::vector<UniqueFd> fds;
    if (!Receive(socket, &fds) || fds.size() != 1) return 1;
    ExpectTag(fds[0].borrow());
    return 0;
  });
  ASSERT_TRUE(Send(child.socket(), {fd.borrow()}));
  EXPECT_EQ(child.Wait(), 0);
}

TEST(FileTagTest, ReopenedInodeHasNoTagUntilItGetsItsOwn) {
  const UniqueFd fd = Memfd();
  ASSERT_TRUE(WriteTag(fd.borrow(), kTag).ok());
  const UniqueFd second = Reopened(fd);
  EXPECT_EQ(ReadTag(second.borrow()).kind, FileKind::kForeign);
  ASSERT_TRUE(WriteTag(second.borrow(), {.kind = FileKind::kVm, .vm_id = 1}).ok());
  ExpectTag(fd.borrow());
}

TEST(FileTagTest, TagsThatDoNotFitAreErange) {
  const UniqueFd fd = Memfd();
  EXPECT_EQ(WriteTag(fd.borrow(), {.kind = FileKind::kVm, .vm_id = kMaxVmId + 1}).error, ERANGE);
  EXPECT_EQ(WriteTag(fd.borrow(), {.kind = FileKind::kVcpu, .index = kMaxFileIndex + 1}).error,
            ERANGE);
}

TEST(FileTagTest, OtherFilesAreForeignWhateverTheirNameOrPosition) {
  const UniqueFd same_name(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ReadTag(same_name.borrow()).kind, FileKind::kForeign);
  // The position alone does not do: the seals are missing.
  ASSERT_TRUE(WriteTag(same_name.borrow(), kTag).ok());
  EXPECT_EQ(ReadTag(same_name.borrow()).kind, FileKind::kForeign);
  // Nor do the seals alone.
  EXPECT_EQ(ReadTag(Memfd().borrow()).kind, FileKind::kForeign);
  const UniqueFd device(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(ReadTag(device.borrow()).kind, FileKind::kForeign);
}

TEST(FileTagTest, ClosedFdIsNotOpen) {
  EXPECT_EQ(ReadTag(BorrowedFd(-1)).kind, FileKind::kNotOpen);
  EXPECT_EQ(ReadTag(BorrowedFd(999)).kind, FileKind::kNotOpen);
}

// ---- marks

TEST(MarkTest, MarkIsSeenFromAnotherDescriptionOnly) {
  const UniqueFd fd = Memfd();
  const UniqueFd observer = Reopened(fd);
  EXPECT_FALSE(IsMarked(observer.borrow(), 7, 1));
  ASSERT_TRUE(SetMark(fd.borrow(), 7).ok());
  EXPECT_TRUE(IsMarked(observer.borrow(), 7, 1));
  EXPECT_TRUE(IsMarked(observer.borrow(), 0, 100));
  EXPECT_FALSE(IsMarked(observer.borrow(), 8, 1));
  EXPECT_FALSE(IsMarked(fd.borrow(), 7, 1));
}

TEST(MarkTest, MarkGoesWithTheLastCopy) {
  UniqueFd fd = Memfd();
  const UniqueFd observer = Reopened(fd);
  ASSERT_TRUE(SetMark(fd.borrow(), 7).ok());
  UniqueFd copy(dup(fd.borrow().raw()));
  fd.Reset();
  EXPECT_TRUE(IsMarked(observer.borrow(), 7, 1));
  copy.Reset();
  EXPECT_FALSE(IsMarked(observer.borrow(), 7, 1));
}

TEST(MarkTest, MarkGoesWithAKilledProcess) {
  UniqueFd fd = Memfd();
  const UniqueFd observer = Reopened(fd);
  ASSERT_TRUE(SetMark(fd.borrow(), 7).ok());
  Child holder([](BorrowedFd socket) { return Receive(socket) ? 0 : 1; });
  fd.Reset();
  EXPECT_TRUE(IsMarked(observer.borrow(), 7, 1)) << "the child inherited a copy";
  holder.Kill();
  holder.Wait();
  EXPECT_FALSE(IsMarked(observer.borrow(), 7, 1));
}

TEST(MarkTest, TwoVmsDoNotShareMarksOnOneInode) {
  EXPECT_NE(GuestMemfdMark(1, 0), GuestMemfdMark(0, 1));
  EXPECT_NE(GuestMemfdMark(1, kMaxFileIndex), GuestMemfdMark(2, 0));
  // The highest mark is a valid position of a lock.
  const UniqueFd fd = Memfd();
  EXPECT_TRUE(SetMark(fd.borrow(), GuestMemfdMark(kMaxVmId, kMaxFileIndex)).ok());
}

}  // namespace
}  // namespace rehome::sim
