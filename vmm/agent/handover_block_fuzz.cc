// SPDX-License-Identifier: Apache-2.0
//
// A handover block that another process made, and changes while it is mapped and used. Promises:
// what was checked is what is used from then on, whatever the file says later; no function answers
// what its table does not have; and no wait outlasts its deadline.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/fd.h"
#include "tools/fuzz/fuzz_target.h"
#include "tools/fuzz/other_process.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome::fuzz {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// ns of each wait, and of what a wait may take on a machine that is busy with other things.
constexpr uint64_t kWaitNs = 200000;
constexpr uint64_t kPatienceNs = 5000000000;
// Pages of the file, so that an input cannot ask for much.
constexpr uint8_t kMaxPages = 4;

struct File {
  uint8_t pages;
  uint8_t without_seals;  // which of the three are missing, as bits
};

UniqueFd MakeFile(const File& file, std::span<const std::byte> header) {
  UniqueFd fd(memfd_create("fuzz-block", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const off_t size = static_cast<off_t>(file.pages % (kMaxPages + 1)) * 4096;
  REHOME_PROMISE(ftruncate(fd.borrow().raw(), size) == 0);
  REHOME_PROMISE(pwrite(fd.borrow().raw(), header.data(), header.size(), 0) ==
                 static_cast<ssize_t>(header.size()));
  int seals = kSeals;
  if ((file.without_seals & 1) != 0) seals &= ~F_SEAL_SHRINK;
  if ((file.without_seals & 2) != 0) seals &= ~F_SEAL_GROW;
  if ((file.without_seals & 4) != 0) seals &= ~F_SEAL_SEAL;
  REHOME_PROMISE(fcntl(fd.borrow().raw(), F_ADD_SEALS, seals) == 0);
  return fd;
}

void CheckTerms(const rehome_block& block, BorrowedFd fd) {
  const auto file = Identify(fd);
  REHOME_PROMISE(file.ok() && block.mapped_size == file->size_bytes);
  REHOME_PROMISE(block.state_capacity <= block.mapped_size - REHOME_BLOCK_HEADER_SIZE);
  REHOME_PROMISE(block.claim_timeout_ns - 1 < REHOME_BLOCK_MAX_TIMEOUT_NS);
  REHOME_PROMISE(block.resolve_timeout_ns - 1 < REHOME_BLOCK_MAX_TIMEOUT_NS);
  REHOME_PROMISE(std::memchr(block.migration_id, 0, sizeof(block.migration_id)) != nullptr);
  REHOME_PROMISE(block.migration_id[0] != '\0');
  REHOME_PROMISE(block.strategy >= REHOME_STRATEGY_LINK_MOVE &&
                 block.strategy <= REHOME_STRATEGY_MAP);
  REHOME_PROMISE(block.fence_policy >= REHOME_FENCE_KERNEL &&
                 block.fence_policy <= REHOME_FENCE_AFTER_RESUME);
}

template <typename Wait>
void CheckWait(Wait wait) {
  const uint64_t start = rehome_monotonic_ns();
  const int result = wait(start + kWaitNs);
  REHOME_PROMISE(result == 0 || result == -ETIMEDOUT || result == -ECANCELED);
  REHOME_PROMISE(rehome_monotonic_ns() - start < kPatienceNs);
}

void CheckWaits(rehome_block* block) {
  CheckWait([&](uint64_t deadline) {
    return rehome_block_wait_verdict(block, rehome_block_verdict(block), deadline);
  });
  CheckWait([&](uint64_t deadline) {
    return rehome_block_wait_verdict_in(block, REHOME_VERDICTS_FINAL, deadline);
  });
  CheckWait([&](uint64_t deadline) {
    return rehome_block_wait_source_ready(block, deadline, /*spin_ns=*/1000);
  });
  CheckWait([&](uint64_t deadline) { return rehome_block_wait_fence_proven(block, deadline); });
}

void CheckEdges(rehome_block* block) {
  for (uint32_t to = 0; to <= REHOME_VERDICT_ABORTED + 1; ++to) {
    const uint32_t from = rehome_block_verdict(block);
    const int result = rehome_block_move_verdict(block, from, to);
    REHOME_PROMISE(result == 0 || result == -EPERM || result == -EAGAIN);
    REHOME_PROMISE((result == -EPERM) == (rehome_verdict_has_edge(from, to) == 0));
  }
}

void CheckWords(rehome_block* block) {
  REHOME_PROMISE(rehome_block_state_size(block) <= block->state_capacity);
  for (rehome_side side : {REHOME_SIDE_SOURCE, REHOME_SIDE_TARGET}) {
    const int result = rehome_block_condemn(block, side);
    REHOME_PROMISE(result == 0 || result == -EPERM);
  }
  const int too_much = rehome_block_set_source_ready(block, block->state_capacity + 1);
  REHOME_PROMISE(too_much == -EMSGSIZE);
  const int ready = rehome_block_set_source_ready(block, block->state_capacity);
  REHOME_PROMISE(ready == 0 || ready == -ECANCELED);
  REHOME_PROMISE(rehome_block_state_size(block) <= block->state_capacity);
  for (int phase = 0; phase < REHOME_PHASE_COUNT; ++phase) {
    rehome_block_stamp_as(block, static_cast<rehome_phase>(phase), REHOME_PHASE_CLAIMED);
  }
  uint64_t phases[REHOME_PHASE_COUNT];
  rehome_block_read_phases(block, phases);
}

rehome_block_header GoodHeader() {
  rehome_block_header header = {};
  header.magic = REHOME_BLOCK_MAGIC;
  header.version = REHOME_BLOCK_VERSION;
  header.header_size = REHOME_BLOCK_HEADER_SIZE;
  header.total_size = 2 * 4096;
  header.state_capacity = 4096;
  header.claim_timeout_ns = header.resolve_timeout_ns = 1000000;
  header.fence_policy = REHOME_FENCE_BEFORE_RESUME;
  header.strategy = REHOME_STRATEGY_MAP;
  std::strcpy(header.migration_id, "m-1");
  header.verdict_word = REHOME_VERDICT_OPEN;
  return header;
}

Seed MakeSeed(const char* name, const std::vector<OtherProcess::Change>& changes) {
  Seed seed{.name = name, .bytes = {}};
  Append(seed.bytes, File{.pages = 2, .without_seals = 0});
  Append(seed.bytes, GoodHeader());
  OtherProcess::AppendChanges(seed.bytes, changes);
  return seed;
}

}  // namespace

// A File, its header, and what the other process writes meanwhile.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const File file = in.Take<File>();
  const UniqueFd fd = MakeFile(file, in.TakeBytes(sizeof(rehome_block_header)));
  const OtherProcess other(fd.borrow(), OtherProcess::TakeChanges(in));
  rehome_block block;
  const int result = rehome_block_map(fd.borrow().raw(), &block);
  REHOME_PROMISE(result == 0 || result == -EINVAL);
  if (result != 0) return false;
  REHOME_PROMISE(file.without_seals % 8 == 0);
  CheckTerms(block, fd.borrow());
  const rehome_block agreed = block;
  CheckWords(&block);
  CheckEdges(&block);
  CheckWaits(&block);
  rehome_block_set_fence_proven(&block);
  REHOME_PROMISE(std::memcmp(&agreed, &block, sizeof(block)) == 0);
  rehome_block_unmap(&block);
  return true;
}

std::vector<Seed> Seeds() {
  const auto at = [](size_t offset) { return static_cast<uint32_t>(offset); };
  return {
      MakeSeed("quiet", {}),
      MakeSeed("verdict-counts-up",
               {{at(offsetof(rehome_block_header, verdict_word)), REHOME_VERDICT_ABORTED + 1, 0}}),
      MakeSeed("fence-counts-up", {{at(offsetof(rehome_block_header, fence_word)), 4, 0}}),
      MakeSeed("ready-turns", {{at(offsetof(rehome_block_header, source_ready_word)), 1, 1}}),
      MakeSeed("size-turns", {{at(offsetof(rehome_block_header, state_size)), 0xffffffff, 1},
                              {at(offsetof(rehome_block_header, state_size)) + 4, 1, 1}}),
      MakeSeed("phases-count-up", {{at(offsetof(rehome_block_header, phase_ns)), 1, 0},
                                   {at(offsetof(rehome_block_header, phase_ns)) + 24, 1, 0}}),
  };
}

}  // namespace rehome::fuzz
