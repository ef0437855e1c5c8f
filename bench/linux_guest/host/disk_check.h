// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_DISK_CHECK_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_DISK_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "bench/linux_guest/host/evidence.h"

namespace rehome::linux_guest {

// Reads the disk's file, which was empty (zero) when the boot `run` began, after its writer has
// come to rest with `durable` records: each slot must hold the last record that belongs there, and
// a slot that no record belongs to must be empty. Errors are those of open(2) and read(2).
absl::StatusOr<DiskResult> CheckDisk(const std::string& path, uint64_t run, uint64_t durable);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_DISK_CHECK_H_
