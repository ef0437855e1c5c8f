// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

UniqueFd NewFile(off_t size) {
  UniqueFd file(memfd_create("fd_test", MFD_CLOEXEC));
  EXPECT_TRUE(file.valid());
  EXPECT_EQ(ftruncate(file.borrow().raw(), size), 0);
  return file;
}

bool IsOpen(int raw) { return fcntl(raw, F_GETFD) >= 0; }

TEST(UniqueFd, ClosesWhenDestroyed) {
  int raw = -1;
  {
    const UniqueFd file = NewFile(0);
    raw = file.borrow().raw();
    ASSERT_TRUE(IsOpen(raw));
  }
  EXPECT_FALSE(IsOpen(raw));
}

TEST(UniqueFd, MoveLeavesNothingBehind) {
  UniqueFd first = NewFile(0);
  const int raw = first.borrow().raw();
  UniqueFd second = std::move(first);
  EXPECT_FALSE(first.valid());
  EXPECT_EQ(second.borrow().raw(), raw);
  EXPECT_TRUE(IsOpen(raw));
}

TEST(UniqueFd, AssignmentClosesWhatWasOwned) {
  UniqueFd kept = NewFile(0);
  UniqueFd replaced = NewFile(0);
  const int kept_raw = kept.borrow().raw();
  const int replaced_raw = replaced.borrow().raw();
  replaced = std::move(kept);
  EXPECT_FALSE(IsOpen(replaced_raw));
  EXPECT_TRUE(IsOpen(kept_raw));
  EXPECT_EQ(replaced.borrow().raw(), kept_raw);
}

TEST(IsSameOpenFile, IsTrueOfDuplicatesAndNotOfASecondOpenOfOneInode) {
  const UniqueFd file = NewFile(0);
  const UniqueFd duplicate = *Duplicate(file.borrow());
  const std::string path = "/proc/self/fd/" + std::to_string(file.borrow().raw());
  const UniqueFd opened_again(open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(opened_again.valid());
  EXPECT_TRUE(IsSameOpenFile(file.borrow(), duplicate.borrow()));
  EXPECT_FALSE(IsSameOpenFile(file.borrow(), opened_again.borrow()));
  EXPECT_FALSE(IsSameOpenFile(file.borrow(), BorrowedFd()));
}

TEST(UniqueFd, SelfAssignmentKeepsTheDescriptor) {
  UniqueFd file = NewFile(0);
  UniqueFd& alias = file;
  file = std::move(alias);
  ASSERT_TRUE(file.valid());
  EXPECT_TRUE(IsOpen(file.borrow().raw()));
}

TEST(UniqueFd, ReleaseGivesOwnershipAway) {
  UniqueFd file = NewFile(0);
  const int raw = file.Release();
  EXPECT_FALSE(file.valid());
  file.Reset();
  EXPECT_TRUE(IsOpen(raw));
  close(raw);
}

TEST(UniqueFd, ResetTwiceClosesOnce) {
  UniqueFd file = NewFile(0);
  const int raw = file.borrow().raw();
  file.Reset();
  const UniqueFd other(fcntl(0, F_DUPFD_CLOEXEC, raw));  // takes the number that became free
  ASSERT_EQ(other.borrow().raw(), raw);
  file.Reset();
  EXPECT_TRUE(IsOpen(raw));
}

TEST(BorrowedFd, DefaultIsNoDescriptor) {
  EXPECT_FALSE(BorrowedFd().valid());
  EXPECT_FALSE(UniqueFd().borrow().valid());
  EXPECT_TRUE(BorrowedFd(0).valid());
}

TEST(Duplicate, IsCloseOnExecEvenIfTheOriginalIsNot) {
  const UniqueFd file(memfd_create("inheritable", 0));
  ASSERT_EQ(fcntl(file.borrow().raw(), F_GETFD), 0);
  const absl::StatusOr<UniqueFd> copy = Duplicate(file.borrow());
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_NE(copy->borrow().raw(), file.borrow().raw());
  EXPECT_EQ(fcntl(copy->borrow().raw(), F_GETFD), FD_CLOEXEC);
}

TEST(Duplicate, OfAClosedDescriptorIsBadFd) {
  const absl::StatusOr<UniqueFd> copy = Duplicate(BorrowedFd());
  EXPECT_EQ(copy.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(copy.status()), "BAD_FD");
}

TEST(Duplicate, AtTheLimitSaysSo) {
  const UniqueFd file = NewFile(0);
  rlimit saved = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &saved), 0);
  // Every number below the limit is taken, since the file got the lowest free one.
  rlimit tight = saved;
  tight.rlim_cur = static_cast<rlim_t>(file.borrow().raw()) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  const absl::StatusOr<UniqueFd> copy = Duplicate(file.borrow());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &saved), 0);
  EXPECT_EQ(copy.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(copy.status()), "FD_LIMIT");
}

TEST(SetCloseOnExec, SetsItAndRefusesAClosedDescriptor) {
  const UniqueFd file(memfd_create("inheritable", 0));
  ASSERT_EQ(fcntl(file.borrow().raw(), F_GETFD), 0);
  EXPECT_TRUE(SetCloseOnExec(file.borrow()).ok());
  EXPECT_EQ(fcntl(file.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(ReasonOf(SetCloseOnExec(BorrowedFd())), "BAD_FD");
}

TEST(Identify, DuplicatesShareTheInodeAndOtherFilesDoNot) {
  const UniqueFd file = NewFile(8192);
  const UniqueFd other = NewFile(8192);
  const absl::StatusOr<UniqueFd> copy = Duplicate(file.borrow());
  ASSERT_TRUE(copy.ok());
  const absl::StatusOr<FileIdentity> identity = Identify(file.borrow());
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->size_bytes, 8192u);
  EXPECT_EQ(Identify(copy->borrow())->id, identity->id);
  EXPECT_NE(Identify(other.borrow())->id, identity->id);
}

TEST(Identify, OfAClosedDescriptorIsBadFd) {
  const absl::StatusOr<FileIdentity> identity = Identify(BorrowedFd(1 << 20));
  EXPECT_EQ(identity.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(identity.status()), "BAD_FD");
}

}  // namespace
}  // namespace rehome
