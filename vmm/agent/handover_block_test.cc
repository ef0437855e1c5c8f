// SPDX-License-Identifier: Apache-2.0
//
// Making and mapping a handover block.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/handover_block_fixture.h"

namespace rehome {
namespace {

class HandoverBlock : public HandoverBlockFixture {};

TEST_F(HandoverBlock, BeginsOpenWithTheTermsItWasMadeWith) {
  EXPECT_EQ(rehome_block_verdict(&block_), static_cast<uint32_t>(REHOME_VERDICT_OPEN));
  EXPECT_EQ(rehome_block_fence_state(&block_), static_cast<uint32_t>(REHOME_FENCE_STATE_OPEN));
  EXPECT_EQ(block_.state_capacity, 20000u);
  EXPECT_EQ(block_.claim_timeout_ns, kSecond);
  EXPECT_EQ(block_.resolve_timeout_ns, 2 * kSecond);
  EXPECT_EQ(block_.fence_policy, REHOME_FENCE_AFTER_RESUME);
  EXPECT_EQ(block_.strategy, REHOME_STRATEGY_MAP);
  EXPECT_STREQ(block_.migration_id, "m-1");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block_.state) % REHOME_BLOCK_HEADER_SIZE, 0u);
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(&block_, phases);
  for (uint64_t phase : phases) EXPECT_EQ(phase, 0u);
}

TEST_F(HandoverBlock, CannotBeResizedOrUnsealed) {
  EXPECT_NE(ftruncate(fd_, 0), 0);
  EXPECT_NE(ftruncate(fd_, 1 << 20), 0);
  EXPECT_NE(fcntl(fd_, F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_NE(fcntl(fd_, F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(HandoverBlock, KeepsItsTermsWhenTheSharedOnesChange) {
  block_.shared->state_capacity = 1 << 30;
  block_.shared->claim_timeout_ns = 1;
  EXPECT_EQ(rehome_block_set_source_ready(&block_, 20001), -EMSGSIZE);
  EXPECT_EQ(block_.claim_timeout_ns, kSecond);
}

TEST_F(HandoverBlock, TakesNoPageFaultAfterMapping) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's shadow memory takes page faults of its own";
#endif
  rusage before, after;
  getrusage(RUSAGE_THREAD, &before);
  for (uint64_t i = 0; i < block_.state_capacity; i += 4096) block_.state[i] = 1;
  block_.shared->phase_ns[0] = 1;
  getrusage(RUSAGE_THREAD, &after);
  EXPECT_EQ(after.ru_minflt, before.ru_minflt);
}

TEST(HandoverBlockCreate, RefusesTermsThatNobodyCouldKeep) {
  const std::string long_id(REHOME_ID_SIZE, 'x');
  const std::vector<std::function<void(rehome_block_params*)>> spoils = {
      [](rehome_block_params* p) { p->migration_id = ""; },
      [&](rehome_block_params* p) { p->migration_id = long_id.c_str(); },
      [](rehome_block_params* p) { p->state_capacity = REHOME_MAX_STATE + 1; },
      [](rehome_block_params* p) { p->claim_timeout_ns = 0; },
      [](rehome_block_params* p) { p->claim_timeout_ns = REHOME_BLOCK_MAX_TIMEOUT_NS + 1; },
      [](rehome_block_params* p) { p->resolve_timeout_ns = 0; },
      [](rehome_block_params* p) { p->resolve_timeout_ns = REHOME_BLOCK_MAX_TIMEOUT_NS + 1; },
      [](rehome_block_params* p) { p->strategy = 0; },
      [](rehome_block_params* p) { p->strategy = REHOME_STRATEGY_MAP + 1; },
      [](rehome_block_params* p) { p->fence_policy = 0; },
      [](rehome_block_params* p) { p->fence_policy = REHOME_FENCE_AFTER_RESUME + 1; },
      [](rehome_block_params* p) { p->fence_policy = REHOME_FENCE_KERNEL; },  // with MAP
  };
  for (size_t i = 0; i < spoils.size(); i++) {
    rehome_block_params params = GoodParams();
    spoils[i](&params);
    EXPECT_EQ(rehome_block_create(&params), -EINVAL) << i;
  }
}

TEST(HandoverBlockMap, RefusesWhatIsNoHandoverBlock) {
  rehome_block block;
  EXPECT_EQ(rehome_block_map(-1, &block), -EINVAL);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  EXPECT_EQ(rehome_block_map(pipe_ends[0], &block), -EINVAL);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  int directory = open("/proc", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(rehome_block_map(directory, &block), -EINVAL);
  close(directory);
}

// A file as rehome_block_create() makes it, but for what `spoil` does to its header, with these
// seals and this size.
int MapSpoilt(const std::function<void(rehome_block_header*)>& spoil,
              int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, int extra_bytes = 0) {
  rehome_block_params params = GoodParams();
  int good = rehome_block_create(&params);
  auto header = std::make_unique<rehome_block_header>();
  constexpr ssize_t kSize = sizeof(*header);
  EXPECT_EQ(pread(good, header.get(), kSize, 0), kSize);
  int fd = memfd_create("spoilt", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(header->total_size) + extra_bytes), 0);
  spoil(header.get());
  EXPECT_EQ(pwrite(fd, header.get(), kSize, 0), kSize);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
  rehome_block block;
  int result = rehome_block_map(fd, &block);
  if (result == 0) rehome_block_unmap(&block);
  close(fd);
  close(good);
  return result;
}

TEST(HandoverBlockMap, RefusesEachWrongField) {
  EXPECT_EQ(MapSpoilt([](rehome_block_header*) {}), 0);
  const std::vector<std::function<void(rehome_block_header*)>> spoils = {
      [](rehome_block_header* h) { h->magic++; },
      [](rehome_block_header* h) { h->version++; },
      [](rehome_block_header* h) { h->header_size = 512; },
      [](rehome_block_header* h) { h->total_size += 4096; },
      [](rehome_block_header* h) { h->state_capacity += 4096; },
      [](rehome_block_header* h) { h->state_capacity = UINT64_MAX; },
      [](rehome_block_header* h) { h->claim_timeout_ns = 0; },
      [](rehome_block_header* h) { h->resolve_timeout_ns = UINT64_MAX; },
      [](rehome_block_header* h) { h->fence_policy = 9; },
      [](rehome_block_header* h) { h->strategy = 9; },
      [](rehome_block_header* h) { h->fence_policy = REHOME_FENCE_KERNEL; },
      [](rehome_block_header* h) { memset(h->migration_id, 'x', sizeof(h->migration_id)); },
      [](rehome_block_header* h) { h->migration_id[0] = '\0'; },
      [](rehome_block_header* h) { h->reserved[7] = 1; },
  };
  for (size_t i = 0; i < spoils.size(); i++) EXPECT_EQ(MapSpoilt(spoils[i]), -EINVAL) << i;
}

TEST(HandoverBlockMap, RefusesAFileThatCouldChangeItsSize) {
  auto keep = [](rehome_block_header*) {};
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_GROW | F_SEAL_SEAL), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_SEAL), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, 4096), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, -8192), -EINVAL);
  EXPECT_EQ(MapSpoilt(keep, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE), -EINVAL);
}

}  // namespace
}  // namespace rehome
