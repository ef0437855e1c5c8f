// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/disk_record.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "bench/linux_guest/pattern.h"

namespace rehome::linux_guest {

void MakeRecord(uint64_t run, uint64_t sequence, RecordSpan out) {
  const std::span<std::byte> payload = out.subspan(sizeof(RecordHeader));
  FillPattern(run ^ Mix(sequence), payload);
  const RecordHeader header = {
      .magic = kRecordMagic, .run = run, .sequence = sequence, .checksum = Checksum(payload)};
  memcpy(out.data(), &header, sizeof(header));
}

std::string RecordFault(uint64_t run, uint64_t sequence, ConstRecordSpan bytes) {
  std::array<std::byte, kRecordBytes> wanted;
  MakeRecord(run, sequence, wanted);
  if (std::equal(wanted.begin(), wanted.end(), bytes.begin())) return "";
  RecordHeader header;
  memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kRecordMagic) return "no record is there";
  if (header.run != run) return "a record of another boot is there";
  if (header.sequence != sequence) {
    return "record " + std::to_string(header.sequence) + " is there";
  }
  const auto [first, ignored] = std::mismatch(bytes.begin(), bytes.end(), wanted.begin());
  return "its byte " + std::to_string(first - bytes.begin()) + " is wrong";
}

}  // namespace rehome::linux_guest
