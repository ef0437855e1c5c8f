// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/page_frames.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "kvmglue/fd.h"

namespace rehome::harness {
namespace {

constexpr size_t kPages = 8;
constexpr size_t kBytes = kPages * kPageSize;

class PageFramesTest : public testing::Test {
 protected:
  // Shared memory of `file`, or private if it is not given; every page written.
  char* Map(const UniqueFd& file) {
    const int flags = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* address = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, file.borrow().raw(), 0);
    EXPECT_NE(address, MAP_FAILED);
    for (size_t i = 0; i < kPages; ++i) static_cast<char*>(address)[i * kPageSize] = 'x';
    return static_cast<char*>(address);
  }
  PageFrames FramesOf(const char* address) {
    auto frames = ReadPageFrames(getpid(), reinterpret_cast<uint64_t>(address), kBytes);
    EXPECT_TRUE(frames.ok()) << frames.status();
    return frames.ok() ? *frames : PageFrames();
  }
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "the kernel shows frame numbers to root only";
    file_ = UniqueFd(memfd_create("page_frames_test", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file_.borrow().raw(), kBytes), 0);
  }
  UniqueFd file_;
};

TEST_F(PageFramesTest, TwoMappingsOfOneFileAreTheSameFrames) {
  const FrameComparison comparison = CompareFrames(FramesOf(Map(file_)), FramesOf(Map(file_)));
  EXPECT_EQ(comparison.same, kPages);
  EXPECT_EQ(comparison.different, 0u);
}

TEST_F(PageFramesTest, ACopyWithTheSameContentIsSeen) {
  char* original = Map(file_);
  char* copy = Map(UniqueFd());
  memcpy(copy, original, kBytes);
  const FrameComparison comparison = CompareFrames(FramesOf(original), FramesOf(copy));
  EXPECT_EQ(comparison.same, 0u);
  EXPECT_EQ(comparison.different, kPages);
}

TEST_F(PageFramesTest, APageThatIsNotMappedIsUnknownAndNotTheSame) {
  char* original = Map(file_);
  char* later = Map(file_);
  ASSERT_EQ(madvise(later, 3 * kPageSize, MADV_DONTNEED), 0);
  const FrameComparison comparison = CompareFrames(FramesOf(original), FramesOf(later));
  EXPECT_EQ(comparison.unknown, 3u);
  EXPECT_EQ(comparison.same, kPages - 3);
}

TEST(CompareFramesTest, AShorterOneLeavesTheRestUnknown) {
  const FrameComparison comparison = CompareFrames({7, 8, 9}, {7});
  EXPECT_EQ(comparison.same, 1u);
  EXPECT_EQ(comparison.unknown, 2u);
  EXPECT_EQ(comparison.different, 0u);
}

TEST(CompareFramesTest, NoProcessIsAnError) { EXPECT_FALSE(ReadPageFrames(0, 0, kPageSize).ok()); }

}  // namespace
}  // namespace rehome::harness
