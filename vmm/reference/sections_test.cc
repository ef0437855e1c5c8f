// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/sections.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint64_t kMagic = 0x1122334455667788;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Three sections: 10 bytes, a full 200, an empty one.
std::vector<std::byte> Sample() {
  const SectionSpec specs[] = {{1, 0, 100}, {1, 1, 200}, {7, 0, 50}};
  SectionWriter writer(kMagic, 3, specs);
  std::vector<std::byte> area(writer.capacity());
  EXPECT_TRUE(writer.Put(area, 1, Bytes(std::string(200, 'b'))).ok());
  EXPECT_TRUE(writer.Put(area, 0, Bytes("0123456789")).ok());
  area.resize(writer.Finish(area));
  return area;
}

// Everything a reader can say about it; empty if it refuses.
std::string Contents(const std::vector<std::byte>& bytes) {
  const auto reader = SectionReader::Open(kMagic, bytes);
  if (!reader.ok()) {
    EXPECT_EQ(ReasonOf(reader.status()), "STATE_MALFORMED");
    return "";
  }
  std::string all = std::to_string(reader->format());
  for (const SectionEntry& entry : reader->entries()) {
    std::vector<std::byte> content(4096);
    const auto length = reader->Copy(entry.type, entry.index, content);
    if (!length.ok()) {
      EXPECT_EQ(ReasonOf(length.status()), "STATE_MALFORMED");
      return "";
    }
    all += "|" + std::to_string(entry.type) + "." + std::to_string(entry.index) + "=";
    all.append(reinterpret_cast<const char*>(content.data()), *length);
  }
  return all;
}

TEST(SectionsTest, WhatWasWrittenIsRead) {
  EXPECT_EQ(Contents(Sample()), "3|1.0=0123456789|1.1=" + std::string(200, 'b') + "|7.0=");
}

TEST(SectionsTest, AWriterCanBeUsedAgain) {
  const SectionSpec specs[] = {{1, 0, 100}};
  SectionWriter writer(kMagic, 1, specs);
  for (const std::string text : {"the first", "2nd"}) {
    std::vector<std::byte> area(writer.capacity());
    ASSERT_TRUE(writer.Put(area, 0, Bytes(text)).ok());
    area.resize(writer.Finish(area));
    EXPECT_EQ(Contents(area), "1|1.0=" + text);
  }
}

TEST(SectionsTest, ContentBeyondItsRoomIsRefused) {
  const SectionSpec specs[] = {{1, 0, 4}, {1, 1, 4}};
  SectionWriter writer(kMagic, 1, specs);
  std::vector<std::byte> area(writer.capacity());
  EXPECT_EQ(ReasonOf(writer.Put(area, 0, Bytes("12345"))), "SECTION_TOO_LARGE");
  EXPECT_EQ(ReasonOf(writer.Put(std::span(area).first(66), 1, Bytes("1234"))), "SECTION_TOO_LARGE");
}

TEST(SectionsTest, EveryTruncationIsRefused) {
  const std::vector<std::byte> sample = Sample();
  for (size_t length = 0; length < sample.size(); ++length) {
    EXPECT_EQ(Contents({sample.begin(), sample.begin() + length}), "") << length;
  }
}

TEST(SectionsTest, EveryBitFlipIsRefusedOrHitsPadding) {
  const std::vector<std::byte> sample = Sample();
  const std::string contents = Contents(sample);
  size_t harmless = 0;
  for (size_t bit = 0; bit < sample.size() * 8; ++bit) {
    std::vector<std::byte> flipped = sample;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const std::string found = Contents(flipped);
    EXPECT_TRUE(found.empty() || found == contents) << bit;
    harmless += !found.empty();
  }
  // Padding: after the 10 bytes at 128 up to 256, after the 200 bytes there up to 512.
  EXPECT_EQ(harmless, (256 - 138 + 512 - 456) * 8u);
}

TEST(SectionsTest, SomebodyElsesMagicIsRefused) {
  EXPECT_EQ(ReasonOf(SectionReader::Open(kMagic + 1, Sample()).status()), "STATE_MALFORMED");
}

TEST(SectionsTest, AMissingSectionAndAWrongLengthAreRefused) {
  const std::vector<std::byte> sample = Sample();
  const auto reader = SectionReader::Open(kMagic, sample);
  ASSERT_TRUE(reader.ok());
  std::vector<std::byte> ten(10), nine(9), eleven(11);
  EXPECT_TRUE(reader->CopyExact(1, 0, ten).ok());
  EXPECT_EQ(ReasonOf(reader->CopyExact(1, 0, nine)), "STATE_MALFORMED");
  EXPECT_EQ(ReasonOf(reader->CopyExact(1, 0, eleven)), "STATE_MALFORMED");
  EXPECT_EQ(ReasonOf(reader->CopyExact(1, 2, ten)), "STATE_MALFORMED");
}

// A liar computes checksums as well. Builds a container with the given entries and a right
// checksum.
std::vector<std::byte> Forge(std::vector<SectionEntry> entries, uint64_t total, size_t real_size) {
  std::vector<std::byte> bytes(real_size);
  SectionHeader header{
      .magic = kMagic, .section_count = static_cast<uint32_t>(entries.size()), .total_size = total};
  const auto write = [&] {
    std::memcpy(bytes.data(), &header, sizeof(header));
    if (!entries.empty()) {
      std::memcpy(bytes.data() + sizeof(header), entries.data(),
                  entries.size() * sizeof(SectionEntry));
    }
  };
  write();
  header.checksum = SectionTableChecksum(header, entries);
  write();
  return bytes;
}

TEST(SectionsTest, ForgedPlacesAreRefused) {
  const uint64_t empty = SectionChecksum({});
  EXPECT_NE(Contents(Forge({{1, 0, 128, 0, empty}}, 256, 256)), "");
  const struct {
    const char* what;
    std::vector<SectionEntry> entries;
  } kCases[] = {
      {"offset beyond the end", {{1, 0, 320, 0, empty}}},
      {"length beyond the end", {{1, 0, 128, 129, empty}}},
      {"offset + length wraps", {{1, 0, 128, ~0ull - 100, empty}}},
      {"inside the table", {{1, 0, 0, 0, empty}}},
      {"not aligned", {{1, 0, 129, 0, empty}}},
      {"overlapping", {{1, 0, 128, 100, empty}, {1, 1, 192, 0, empty}}},
      {"out of order", {{1, 0, 192, 0, empty}, {1, 1, 128, 0, empty}}},
      {"twice", {{1, 0, 128, 0, empty}, {1, 0, 192, 0, empty}}},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(Contents(Forge(test.entries, 256, 256)), "") << test.what;
  }
  EXPECT_EQ(Contents(Forge({{1, 0, 128, 0, empty}}, 512, 256)), "");
}

TEST(SectionsTest, TooManySectionsAreRefused) {
  std::vector<SectionEntry> entries(kMaxSections + 1);
  EXPECT_EQ(Contents(Forge(entries, 4096, 4096)), "");
}

}  // namespace
}  // namespace rehome
