// SPDX-License-Identifier: Apache-2.0
//
// Looks at a running built-in guest (vmm/reference/guest) from outside its VMM, through
// /proc/PID/mem. Holds no descriptor and no mapping of guest memory, so it is no holder for a fence
// to find and may stay attached while the guest moves away. Needs the right to trace the VMM.
#ifndef REHOME_TESTS_HARNESS_GUEST_PROBE_H_
#define REHOME_TESTS_HARNESS_GUEST_PROBE_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest_memory_reader.h"

namespace rehome::harness {

// One of the files that the guest's RAM consists of, as the VMM maps it.
struct GuestMemoryFile {
  InodeId inode;
  uint64_t size_bytes = 0;
  uint64_t hva = 0;
};

class GuestProbe : public GuestMemoryReader {
 public:
  // NOT_FOUND: the process maps no built-in guest (it may not have started yet). Other errors: the
  // process is gone or may not be looked into.
  static absl::StatusOr<GuestProbe> Attach(pid_t pid);

  // Errors of /proc/PID/mem; OUT_OF_RANGE beyond the end of RAM.
  absl::Status Read(uint64_t ram_offset, std::span<std::byte> out) const override;

  pid_t pid() const { return pid_; }
  const rehome_guest_boot_info& boot_info() const { return boot_; }
  const std::vector<GuestMemoryFile>& files() const { return files_; }

  // Reads a byte of every page of RAM, which makes the kernel allocate the pages that the guest has
  // not touched yet: what a guest looks like that has run for long.
  absl::Status TouchAllPages() const;

  // The guest forgets the longest gap it saw. Returns once every vCPU has answered.
  absl::Status ResetGaps(std::chrono::milliseconds timeout);
  // The same, without waiting. Asked of a guest that stands still, it forgets once it runs again,
  // after the round that it stood still in.
  absl::Status RequestReset();
  // How many rounds of the guest's loop took how long since then, all vCPUs together, by the
  // buckets of vmm/reference/guest/rounds.h.
  absl::StatusOr<std::vector<uint64_t>> RoundCounts() const;
  // The longest time between two turns of the guest's loop since then, of the vCPU that saw the
  // longest, by the guest's own TSC.
  absl::StatusOr<double> LongestGapUs() const;

  // Has the guest read every page of its RAM, and returns how long that took by its own TSC. It
  // counts as a gap.
  absl::StatusOr<double> TimeToTouchAllUs(std::chrono::milliseconds timeout);

 private:
  GuestProbe() = default;
  absl::Status FindFiles(const GuestMemoryFile& first);
  absl::Status Write(uint64_t ram_offset, std::span<const std::byte> bytes);
  absl::StatusOr<uint64_t> HvaOf(uint64_t ram_offset, size_t size) const;

  pid_t pid_ = 0;
  UniqueFd mem_;
  rehome_guest_boot_info boot_ = {};
  std::vector<GuestMemoryFile> files_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_GUEST_PROBE_H_
