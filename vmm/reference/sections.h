// SPDX-License-Identifier: Apache-2.0
//
// A container of typed sections with fixed places: what the state of a VM and its configuration are
// written in. Little-endian.
//
//   +0   header: magic u64, format u32, section count u32, total size u64, checksum u64
//   +32  one 32-byte entry per section: type u32, index u32, offset u64, length u64, checksum u64
//   ...  sections, each 64-byte aligned, in the order of their entries
//
// Writing needs no allocation and can be done by several threads, one section each, so that vCPU
// threads can write their own state in the blackout. Reading trusts nothing: header and table are
// copied and checked before use, a section is copied and then checked. The checksums find damage;
// they are no defence against a liar, whose sections the readers of the contents have to survive.
#ifndef REHOME_VMM_REFERENCE_SECTIONS_H_
#define REHOME_VMM_REFERENCE_SECTIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rehome {

// 64 vCPUs and a handful of devices.
inline constexpr size_t kMaxSections = 80;
// Cache line: two threads never write to one.
inline constexpr size_t kSectionAlignment = 64;

struct SectionSpec {
  uint32_t type = 0;
  uint32_t index = 0;
  size_t capacity = 0;  // bytes that the section may use
};

struct SectionHeader {
  uint64_t magic = 0;
  uint32_t format = 0;
  uint32_t section_count = 0;
  uint64_t total_size = 0;
  uint64_t checksum = 0;  // of header (with this field 0) and table
};
static_assert(sizeof(SectionHeader) == 32);

struct SectionEntry {
  uint32_t type = 0;
  uint32_t index = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t checksum = 0;
};
static_assert(sizeof(SectionEntry) == 32);

// Lays sections out by their capacities and writes them.
class SectionWriter {
 public:
  // REQUIRES: at most kMaxSections specs, each (type, index) once.
  SectionWriter(uint64_t magic, uint32_t format, std::span<const SectionSpec> specs);

  // Bytes of the area that Put() and Finish() are given.
  size_t capacity() const { return capacity_; }

  // Writes section number `i` (position in the specs). Different sections may be written by
  // different threads at once. INVALID_ARGUMENT / SECTION_TOO_LARGE beyond its capacity.
  absl::Status Put(std::span<std::byte> area, size_t i, std::span<const std::byte> content);

  // Writes header and table; a section that was not put is empty. Happens after every Put().
  // Returns the bytes used. The writer can be used again for another area.
  size_t Finish(std::span<std::byte> area);

 private:
  const uint64_t magic_;
  const uint32_t format_;
  std::vector<SectionEntry> entries_;
  std::vector<size_t> capacities_;
  size_t capacity_ = 0;
};

// The sections of `bytes`, which may be shared memory that somebody else writes to.
class SectionReader {
 public:
  // Errors are INVALID_ARGUMENT / STATE_MALFORMED, naming what is wrong: truncated, wrong magic,
  // too many sections, a section out of bounds, overlapping or out of order, a (type, index) twice.
  // `bytes` must outlive the reader.
  static absl::StatusOr<SectionReader> Open(uint64_t magic, std::span<const std::byte> bytes);

  uint32_t format() const { return header_.format; }
  std::span<const SectionEntry> entries() const { return {entries_.data(), header_.section_count}; }

  // Copies the section out and checks the copy. Errors are INVALID_ARGUMENT / STATE_MALFORMED: no
  // such section, length not out.size(), checksum. `out` is undefined then.
  absl::Status CopyExact(uint32_t type, uint32_t index, std::span<std::byte> out) const;
  // The same for a section of up to out.size() bytes; returns its length.
  absl::StatusOr<size_t> Copy(uint32_t type, uint32_t index, std::span<std::byte> out) const;

 private:
  SectionReader() = default;
  const SectionEntry* Find(uint32_t type, uint32_t index) const;

  std::span<const std::byte> bytes_;
  SectionHeader header_;
  std::array<SectionEntry, kMaxSections> entries_;
};

// FNV-1a over 8-byte words in four lanes, padded with zeroes, length included.
uint64_t SectionChecksum(std::span<const std::byte> bytes);
// SectionHeader::checksum for this header and table.
uint64_t SectionTableChecksum(SectionHeader header, std::span<const SectionEntry> entries);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SECTIONS_H_
