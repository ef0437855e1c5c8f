// SPDX-License-Identifier: Apache-2.0
//
// Another process that changes shared memory while it is read: a thread with a mapping of its own.
#ifndef REHOME_TOOLS_FUZZ_OTHER_PROCESS_H_
#define REHOME_TOOLS_FUZZ_OTHER_PROCESS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "kvmglue/fd.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {

class OtherProcess {
 public:
  // One place that it writes to, aligned down to 4 bytes, over and over.
  struct Change {
    uint32_t offset = 0;  // modulo the size of the file
    uint32_t value = 0;
    // 0: counts up from `value`, so that no two reads are alike. Else: turns between what was there
    // and `value`.
    uint8_t mode = 0;
  };
  // So many changes make each of them often enough to meet a reader between two reads.
  static constexpr size_t kMaxChanges = 8;

  // Changes up to kMaxChanges, taken from `in`.
  static std::vector<Change> TakeChanges(Input& in);
  static void AppendChanges(Bytes& seed, const std::vector<Change>& changes);

  // Has begun to write when this returns. `file` must not shrink.
  OtherProcess(BorrowedFd file, std::vector<Change> changes);
  // Has stopped when this returns.
  ~OtherProcess();

  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;

 private:
  void Run();

  const std::vector<Change> changes_;
  std::byte* memory_ = nullptr;
  size_t size_ = 0;
  std::atomic<bool> started_ = false;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace rehome::fuzz

#endif  // REHOME_TOOLS_FUZZ_OTHER_PROCESS_H_
