// SPDX-License-Identifier: Apache-2.0
//
// Which physical pages a process has behind a range of its memory: the way to see that memory was
// not copied, without trusting anybody who took part. Needs CAP_SYS_ADMIN
// (Documentation/admin-guide/mm/pagemap.rst).
#ifndef REHOME_TESTS_HARNESS_PAGE_FRAMES_H_
#define REHOME_TESTS_HARNESS_PAGE_FRAMES_H_

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace rehome::harness {

inline constexpr uint64_t kPageSize = 4096;

// One entry per page: its frame number, 0 for a page that the process's page tables do not hold.
using PageFrames = std::vector<uint64_t>;

// PERMISSION_DENIED if the kernel hides frame numbers from us. `hva` and `size` are page-aligned.
absl::StatusOr<PageFrames> ReadPageFrames(pid_t pid, uint64_t hva, uint64_t size);

struct FrameComparison {
  uint64_t same = 0;       // pages that both have, in the same frame
  uint64_t different = 0;  // pages that both have, in different frames: copied
  uint64_t unknown = 0;    // pages that one of them does not have mapped
};

// Page by page; a page beyond the end of the shorter one is unknown.
FrameComparison CompareFrames(const PageFrames& before, const PageFrames& after);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_PAGE_FRAMES_H_
