// SPDX-License-Identifier: Apache-2.0
#include "daemon/pinned_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace rehome {
namespace {

constexpr uint64_t kMiB = 1 << 20;

UniqueFd MakeMemory(uint64_t bytes) {
  UniqueFd memory(memfd_create("guest", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(memory.borrow().raw(), static_cast<off_t>(bytes)), 0);
  return memory;
}

InodeId InodeOf(const UniqueFd& fd) { return Identify(fd.borrow())->id; }

TEST(PinnedMemoryTest, ADescriptorLeftOfAFinishedMigrationShowsUntilItIsClosed) {
  UniqueFd leaked = MakeMemory(3 * kMiB);
  const std::map<InodeId, MemoryUse> memory = {{InodeOf(leaked), MemoryUse::kFinished}};
  EXPECT_EQ(*CountPinnedMemory(memory), (PinnedBytes{.finished = 3 * kMiB}));
  leaked.Reset();
  EXPECT_EQ(*CountPinnedMemory(memory), PinnedBytes{});
}

TEST(PinnedMemoryTest, EachInodeCountsOnceForWhoeverItBelongsTo) {
  const UniqueFd active = MakeMemory(kMiB), unresolved = MakeMemory(2 * kMiB);
  const UniqueFd again(dup(active.borrow().raw()));
  const UniqueFd other = MakeMemory(4 * kMiB);
  const std::map<InodeId, MemoryUse> memory = {
      {InodeOf(active), MemoryUse::kActive},
      {InodeOf(unresolved), MemoryUse::kIndeterminate},
  };
  EXPECT_EQ(*CountPinnedMemory(memory), (PinnedBytes{.active = kMiB, .indeterminate = 2 * kMiB}))
      << "the other file is nobody's guest";
}

}  // namespace
}  // namespace rehome
