// SPDX-License-Identifier: Apache-2.0
//
// Appends records (disk_record.h) to a block device past the page cache, one at a time: written,
// made durable, read again and compared; with each one, an older one is read again as well.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_DISK_WRITER_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_DISK_WRITER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "bench/linux_guest/guest_account.h"
#include "bench/linux_guest/init/counters.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {

// What the kernel has counted of a device, from a text like /proc/diskstats.
struct DiskStats {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t flushes = 0;
};
std::optional<DiskStats> ParseDiskStats(const std::string& text, const std::string& device);

class DiskWriter {
 public:
  // `device` is its name in /dev. Lives for ever.
  DiskWriter(std::string device, uint64_t run);

  // "" or why there is no disk; the thread runs then.
  std::string Start();
  // Returns when the record in hand is durable and compared, and no other will be begun.
  void Stop();
  void Report(GuestAccount& account) const;

 private:
  void Main();
  // One record whole; "" or what went wrong, after which nothing more is written.
  std::string Append(uint64_t sequence);
  std::string ReadAgain(uint64_t sequence);

  const std::string device_;
  const uint64_t run_;
  UniqueFd disk_;
  uint64_t slots_ = 0;
  DiskStats before_;

  Counter durable_ = 0;  // records 0 to this - 1 are on the disk, or were until overwritten
  Counter read_again_ = 0;
  Complaints faults_;  // errors of the disk, and records that are not what was written
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable at_rest_changed_;
  bool at_rest_ = true;  // guarded by mutex_
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_DISK_WRITER_H_
