// SPDX-License-Identifier: Apache-2.0
//
// The records that the guest appends to its disk: 4 KiB each, whole in every bit recomputable from
// the boot's number and the record's. Record n lies in slot n modulo the disk's slots.
#ifndef REHOME_BENCH_LINUX_GUEST_DISK_RECORD_H_
#define REHOME_BENCH_LINUX_GUEST_DISK_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rehome::linux_guest {

inline constexpr size_t kRecordBytes = 4096;

struct RecordHeader {
  uint64_t magic = 0;
  uint64_t run = 0;
  uint64_t sequence = 0;
  uint64_t checksum = 0;  // Checksum() of the payload
};
static_assert(sizeof(RecordHeader) == 32);

inline constexpr uint64_t kRecordMagic = 0x64726f6365524852;

using RecordSpan = std::span<std::byte, kRecordBytes>;
using ConstRecordSpan = std::span<const std::byte, kRecordBytes>;

void MakeRecord(uint64_t run, uint64_t sequence, RecordSpan out);

// "" if `bytes` are that record in every bit, else how they are not.
std::string RecordFault(uint64_t run, uint64_t sequence, ConstRecordSpan bytes);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_DISK_RECORD_H_
