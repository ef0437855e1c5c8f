// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/sections.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint64_t kFnvBasis = 0xcbf29ce484222325ull;
constexpr uint64_t kFnvPrime = 0x100000001b3ull;

size_t Align(size_t size) { return (size + kSectionAlignment - 1) & ~(kSectionAlignment - 1); }

absl::Status Malformed(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "STATE_MALFORMED", what);
}

// Folding the high half down keeps a flip of the top bit from staying there, where a second one
// would cancel it.
uint64_t Fold(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * kFnvPrime;
  return hash ^ (hash >> 32);
}

// Four independent lanes: one chain of multiplications over 10 KiB of vCPU state would cost several
// microseconds of the blackout.
uint64_t Checksum(std::span<const std::byte> bytes, uint64_t hash) {
  std::array<uint64_t, 4> lanes{hash, hash + 1, hash + 2, hash + 3};
  std::array<uint64_t, 4> words;
  const uint64_t size = bytes.size();
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), sizeof(words));
    if (count < sizeof(words)) words.fill(0);
    std::memcpy(words.data(), bytes.data(), count);
    for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = Fold(lanes[i], words[i]);
    bytes = bytes.subspan(count);
  }
  hash = Fold(hash, size);
  for (const uint64_t lane : lanes) hash = Fold(hash, lane);
  return hash;
}

size_t TableEnd(size_t section_count) {
  return sizeof(SectionHeader) + section_count * sizeof(SectionEntry);
}

// In order and in bounds, so that no byte belongs to two sections.
absl::Status CheckEntries(std::span<const SectionEntry> entries, uint64_t total_size) {
  uint64_t end = TableEnd(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const SectionEntry& entry = entries[i];
    if (entry.offset % kSectionAlignment != 0 || entry.offset < end || entry.offset > total_size ||
        entry.length > total_size - entry.offset) {
      return Malformed(absl::StrCat("section ", i, " is misplaced"));
    }
    end = entry.offset + entry.length;
    for (size_t k = 0; k < i; ++k) {
      if (entries[k].type == entry.type && entries[k].index == entry.index) {
        return Malformed(absl::StrCat("section ", i, " is there twice"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t SectionChecksum(std::span<const std::byte> bytes) { return Checksum(bytes, kFnvBasis); }

uint64_t SectionTableChecksum(SectionHeader header, std::span<const SectionEntry> entries) {
  header.checksum = 0;
  const uint64_t hash =
      Checksum(std::as_bytes(std::span<const SectionHeader>(&header, 1)), kFnvBasis);
  return Checksum(std::as_bytes(entries), hash);
}

SectionWriter::SectionWriter(uint64_t magic, uint32_t format, std::span<const SectionSpec> specs)
    : magic_(magic), format_(format) {
  size_t offset = Align(TableEnd(specs.size()));
  for (const SectionSpec& spec : specs) {
    entries_.push_back({.type = spec.type, .index = spec.index, .offset = offset});
    capacities_.push_back(spec.capacity);
    offset = Align(offset + spec.capacity);
  }
  capacity_ = offset;
}

absl::Status SectionWriter::Put(std::span<std::byte> area, size_t i,
                                std::span<const std::byte> content) {
  SectionEntry& entry = entries_[i];
  if (content.size() > capacities_[i] || entry.offset + content.size() > area.size()) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "SECTION_TOO_LARGE",
                      absl::StrCat("section ", i, " of type ", entry.type, " has ", content.size(),
                                   " bytes, room is for ", capacities_[i]));
  }
  if (!content.empty()) std::memcpy(area.data() + entry.offset, content.data(), content.size());
  entry.length = content.size();
  entry.checksum = SectionChecksum(content);
  return absl::OkStatus();
}

size_t SectionWriter::Finish(std::span<std::byte> area) {
  SectionHeader header{.magic = magic_,
                       .format = format_,
                       .section_count = static_cast<uint32_t>(entries_.size()),
                       .total_size = TableEnd(entries_.size())};
  for (SectionEntry& entry : entries_) {
    if (entry.length == 0) entry.checksum = SectionChecksum({});
    header.total_size = entry.offset + entry.length;
  }
  header.checksum = SectionTableChecksum(header, entries_);
  std::memcpy(area.data(), &header, sizeof(header));
  std::memcpy(area.data() + sizeof(header), entries_.data(),
              entries_.size() * sizeof(SectionEntry));
  return header.total_size;
}

absl::StatusOr<SectionReader> SectionReader::Open(uint64_t magic,
                                                  std::span<const std::byte> bytes) {
  SectionReader reader;
  SectionHeader& header = reader.header_;
  if (bytes.size() < sizeof(header)) return Malformed("shorter than its header");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != magic) return Malformed("wrong magic");
  if (header.section_count > kMaxSections) return Malformed("too many sections");
  if (header.total_size != bytes.size()) {
    return Malformed(absl::StrCat("says ", header.total_size, " bytes, has ", bytes.size()));
  }
  if (bytes.size() < TableEnd(header.section_count)) return Malformed("shorter than its table");
  if (header.section_count > 0) {
    std::memcpy(reader.entries_.data(), bytes.data() + sizeof(header),
                header.section_count * sizeof(SectionEntry));
  }
  if (header.checksum != SectionTableChecksum(header, reader.entries())) {
    return Malformed("checksum of the table");
  }
  const absl::Status status = CheckEntries(reader.entries(), header.total_size);
  if (!status.ok()) return status;
  reader.bytes_ = bytes;
  return reader;
}

const SectionEntry* SectionReader::Find(uint32_t type, uint32_t index) const {
  for (const SectionEntry& entry : entries()) {
    if (entry.type == type && entry.index == index) return &entry;
  }
  return nullptr;
}

absl::StatusOr<size_t> SectionReader::Copy(uint32_t type, uint32_t index,
                                           std::span<std::byte> out) const {
  const SectionEntry* entry = Find(type, index);
  if (entry == nullptr) {
    return Malformed(absl::StrCat("section of type ", type, " index ", index, " is missing"));
  }
  if (entry->length > out.size()) {
    return Malformed(absl::StrCat("section of type ", type, " index ", index, " has ",
                                  entry->length, " bytes, at most ", out.size(), " expected"));
  }
  if (entry->length > 0) std::memcpy(out.data(), bytes_.data() + entry->offset, entry->length);
  if (SectionChecksum(out.first(entry->length)) != entry->checksum) {
    return Malformed(absl::StrCat("checksum of section of type ", type, " index ", index));
  }
  return static_cast<size_t>(entry->length);
}

absl::Status SectionReader::CopyExact(uint32_t type, uint32_t index,
                                      std::span<std::byte> out) const {
  const auto length = Copy(type, index, out);
  if (!length.ok()) return length.status();
  if (*length == out.size()) return absl::OkStatus();
  return Malformed(absl::StrCat("section of type ", type, " index ", index, " has ", *length,
                                " bytes, ", out.size(), " expected"));
}

}  // namespace rehome
