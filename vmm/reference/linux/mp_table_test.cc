// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/linux/mp_table.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <span>

namespace rehome {
namespace {

using Bytes = std::span<const std::byte>;

unsigned Sum(Bytes bytes) {
  return std::accumulate(
             bytes.begin(), bytes.end(), 0u,
             [](unsigned sum, std::byte byte) { return sum + std::to_integer<unsigned>(byte); }) &
         0xff;
}

template <typename T>
T At(Bytes bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.subspan(offset, sizeof(T)).data(), sizeof(T));
  return value;
}

// The entries of the configuration table, by type; the specification's own sizes.
std::map<uint8_t, std::vector<Bytes>> EntriesOf(Bytes table) {
  std::map<uint8_t, std::vector<Bytes>> entries;
  size_t at = 44;
  for (int i = 0; i < At<uint16_t>(table, 34); ++i) {
    const auto type = At<uint8_t>(table, at);
    const size_t size = type == 0 ? 20 : 8;
    entries[type].push_back(table.subspan(at, size));
    at += size;
  }
  EXPECT_EQ(at, At<uint16_t>(table, 4));
  return entries;
}

TEST(MpTableTest, AKernelFindsIt) {
  for (const uint32_t cpus : {1u, 2u, 64u}) {
    const std::vector<std::byte> bytes = MakeMpTable(cpus);
    const Bytes pointer = Bytes(bytes).first(16);
    EXPECT_EQ(std::memcmp(pointer.data(), "_MP_", 4), 0);
    EXPECT_EQ(Sum(pointer), 0u);
    EXPECT_EQ(At<uint32_t>(pointer, 4), kMpTableAddress + 16);
    const Bytes table = Bytes(bytes).subspan(16);
    EXPECT_EQ(std::memcmp(table.data(), "PCMP", 4), 0);
    EXPECT_EQ(At<uint16_t>(table, 4), table.size());
    EXPECT_EQ(Sum(table), 0u);
    EXPECT_LE(bytes.size(), kMpTableMaxBytes);
  }
}

TEST(MpTableTest, EachProcessorIsThereAndTheFirstBoots) {
  const std::vector<std::byte> bytes = MakeMpTable(3);
  const auto entries = EntriesOf(Bytes(bytes).subspan(16));
  ASSERT_EQ(entries.at(0).size(), 3u);
  for (uint8_t i = 0; i < 3; ++i) {
    EXPECT_EQ(At<uint8_t>(entries.at(0)[i], 1), i);
    EXPECT_EQ(At<uint8_t>(entries.at(0)[i], 3), i == 0 ? 3 : 1);
  }
}

TEST(MpTableTest, EachIsaInterruptIsAtThePinOfItsNumber) {
  const std::vector<std::byte> bytes = MakeMpTable(2);
  const auto entries = EntriesOf(Bytes(bytes).subspan(16));
  ASSERT_EQ(entries.at(1).size(), 1u);
  ASSERT_EQ(entries.at(2).size(), 1u);
  const auto io_apic = At<uint8_t>(entries.at(2)[0], 1);
  EXPECT_GE(io_apic, 2) << "an id of its own";
  EXPECT_EQ(At<uint32_t>(entries.at(2)[0], 4), 0xfec00000u);
  EXPECT_EQ(entries.at(3).size(), 15u) << "16 without the cascade";
  for (const Bytes entry : entries.at(3)) {
    EXPECT_EQ(At<uint8_t>(entry, 1), 0) << "vectored";
    EXPECT_EQ(At<uint8_t>(entry, 5), At<uint8_t>(entry, 7));
    EXPECT_NE(At<uint8_t>(entry, 5), 2);
    EXPECT_EQ(At<uint8_t>(entry, 6), io_apic);
  }
  EXPECT_EQ(entries.at(4).size(), 2u);
}

}  // namespace
}  // namespace rehome
