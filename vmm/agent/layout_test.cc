// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr uint64_t kPage = 4096;

std::vector<rehome_memslot> Slots(size_t count) {
  std::vector<rehome_memslot> slots;
  for (uint64_t i = 0; i < count; ++i) {
    slots.push_back({.slot = static_cast<uint32_t>(i),
                     .address_space = static_cast<uint32_t>(i % 2),
                     .gpa = i * kPage,
                     .size = kPage,
                     .offset = i * kPage,
                     .device = 16,
                     .inode = 1234});
  }
  return slots;
}

// The specification, written down a second time: bytes in a row, then textbook FNV-1a.
template <typename T>
void Append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

uint64_t Expected(std::vector<rehome_memslot> slots) {
  std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) {
    return std::pair(a.address_space, a.gpa) < std::pair(b.address_space, b.gpa);
  });
  std::string bytes;
  for (const rehome_memslot& slot : slots) {
    Append<uint32_t>(bytes, slot.address_space);
    Append<uint64_t>(bytes, slot.gpa);
    Append<uint64_t>(bytes, slot.size);
    Append<uint32_t>(bytes, slot.flags & ~4u);
    Append<uint64_t>(bytes, slot.device);
    Append<uint64_t>(bytes, slot.inode);
    Append<uint64_t>(bytes, slot.offset);
  }
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

TEST(LayoutDigest, FollowsTheSpecification) {
  std::vector<rehome_memslot> slots = Slots(5);
  slots[1].flags = 4 | 2;
  slots[2].size = 0x123456789000;
  slots[3].inode = ~0ull;
  EXPECT_EQ(rehome_layout_digest(slots.data(), slots.size()), Expected(slots));
}

// A number written into records and compared between versions: it may never change.
TEST(LayoutDigest, IsStable) {
  const rehome_memslot slot = {
      .gpa = 0x100000, .size = 0x40000000, .flags = 4, .device = 16, .inode = 124865};
  EXPECT_EQ(rehome_layout_digest(&slot, 1), 0x5d5a3af036f60210ull);
}

TEST(LayoutDigest, DoesNotDependOnOrderAndLeavesTheArrayAlone) {
  std::vector<rehome_memslot> slots = Slots(REHOME_MAX_SLOTS);
  const uint64_t digest = rehome_layout_digest(slots.data(), slots.size());
  EXPECT_EQ(digest, Expected(slots));
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    std::shuffle(slots.begin(), slots.end(), random);
    const std::vector<rehome_memslot> before = slots;
    EXPECT_EQ(rehome_layout_digest(slots.data(), slots.size()), digest);
    for (size_t k = 0; k < slots.size(); ++k) EXPECT_EQ(slots[k].slot, before[k].slot);
  }
}

TEST(LayoutDigest, IgnoresWhatBelongsToOneSideOnly) {
  std::vector<rehome_memslot> slots = Slots(2);
  const uint64_t digest = rehome_layout_digest(slots.data(), slots.size());
  slots[0].slot = 9;
  slots[0].hva = 0x7f0000000000;
  slots[0].memory_index = 3;
  slots[0].flags ^= 4;  // KVM_MEM_GUEST_MEMFD
  EXPECT_EQ(rehome_layout_digest(slots.data(), slots.size()), digest);
}

TEST(LayoutDigest, OfNothingIsTheBasisAndOfTooManyZero) {
  EXPECT_EQ(rehome_layout_digest(nullptr, 0), 0xcbf29ce484222325ull);
  const std::vector<rehome_memslot> slots = Slots(REHOME_MAX_SLOTS + 1);
  EXPECT_EQ(rehome_layout_digest(slots.data(), slots.size()), 0u);
}

}  // namespace
