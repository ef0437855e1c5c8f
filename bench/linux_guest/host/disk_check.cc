// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/disk_check.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "bench/linux_guest/disk_record.h"
#include "kvmglue/fd.h"

namespace rehome::linux_guest {
namespace {

using Slot = std::array<std::byte, kRecordBytes>;

bool IsEmpty(const Slot& slot) {
  return std::all_of(slot.begin(), slot.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

// "" if the slot holds what it should.
std::string SlotFault(uint64_t run, uint64_t durable, uint64_t slots, uint64_t index,
                      const Slot& slot) {
  if (index >= durable) return IsEmpty(slot) ? "" : "something that the guest has not written";
  const uint64_t turns = (durable - 1 - index) / slots;
  const uint64_t sequence = index + turns * slots;
  const std::string fault = RecordFault(run, sequence, slot);
  return fault.empty() ? "" : absl::StrCat("where record ", sequence, " belongs: ", fault);
}

}  // namespace

absl::StatusOr<DiskResult> CheckDisk(const std::string& path, uint64_t run, uint64_t durable) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return absl::ErrnoToStatus(errno, path);
  const off_t size = lseek(file.borrow().raw(), 0, SEEK_END);
  if (size < 0) return absl::ErrnoToStatus(errno, path);
  DiskResult result = {.file_slots = static_cast<uint64_t>(size) / kRecordBytes};
  Slot slot;
  for (uint64_t index = 0; index < result.file_slots; ++index) {
    const auto place = static_cast<off_t>(index * kRecordBytes);
    if (pread(file.borrow().raw(), slot.data(), slot.size(), place) != kRecordBytes) {
      return absl::ErrnoToStatus(errno, absl::StrCat(path, ": slot ", index));
    }
    const std::string fault = SlotFault(run, durable, result.file_slots, index, slot);
    if (fault.empty()) {
      if (index < durable) ++result.checked;
      continue;
    }
    if (result.faults++ == 0) result.first_fault = absl::StrCat("slot ", index, ": ", fault);
  }
  return result;
}

}  // namespace rehome::linux_guest
