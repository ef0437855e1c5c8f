// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/page_frames.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "kvmglue/fd.h"

namespace rehome::harness {
namespace {

// Documentation/admin-guide/mm/pagemap.rst: bit 63 page present, bits 0 to 54 frame number.
constexpr uint64_t kPresent = 1ull << 63;
constexpr uint64_t kFrameMask = (1ull << 55) - 1;

}  // namespace

absl::StatusOr<PageFrames> ReadPageFrames(pid_t pid, uint64_t hva, uint64_t size) {
  const std::string path = absl::StrCat("/proc/", pid, "/pagemap");
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return absl::ErrnoToStatus(errno, path);
  PageFrames entries(size / kPageSize);
  auto* bytes = reinterpret_cast<char*>(entries.data());
  const size_t wanted = entries.size() * sizeof(entries[0]);
  const uint64_t start = hva / kPageSize * sizeof(entries[0]);
  for (size_t done = 0; done < wanted;) {
    const ssize_t got =
        pread(file.borrow().raw(), bytes + done, wanted - done, static_cast<off_t>(start + done));
    if (got <= 0) return absl::ErrnoToStatus(got == 0 ? ESRCH : errno, path);
    done += static_cast<size_t>(got);
  }
  for (uint64_t& entry : entries) {
    const bool present = (entry & kPresent) != 0;
    entry &= kFrameMask;
    if (present && entry == 0) {
      return absl::PermissionDeniedError(absl::StrCat(path, ": frame numbers are hidden"));
    }
    if (!present) entry = 0;
  }
  return entries;
}

FrameComparison CompareFrames(const PageFrames& before, const PageFrames& after) {
  FrameComparison result;
  const size_t pages = std::max(before.size(), after.size());
  for (size_t i = 0; i < pages; ++i) {
    const uint64_t a = i < before.size() ? before[i] : 0;
    const uint64_t b = i < after.size() ? after[i] : 0;
    if (a == 0 || b == 0) {
      ++result.unknown;
    } else if (a == b) {
      ++result.same;
    } else {
      ++result.different;
    }
  }
  return result;
}

}  // namespace rehome::harness
