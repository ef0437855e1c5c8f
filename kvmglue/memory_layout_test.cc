// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/memory_layout.h"

#include <gtest/gtest.h>

#include <functional>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kTop = ~uint64_t{0} - kPage + 1;  // first byte of the last page

Memslot Slot(uint64_t gpa, uint64_t size, uint64_t inode, uint64_t offset = 0) {
  return {
      .gpa = gpa, .size_bytes = size, .inode = {.device = 16, .inode = inode}, .offset = offset};
}

// Two slots of RAM, one of SMM over the same gpa, a read-only one.
MemoryLayout Sample() {
  MemoryLayout layout;
  layout.slots = {Slot(0, 16 * kPage, 7), Slot(1ull << 32, 8 * kPage, 7, 16 * kPage),
                  Slot(0, 4 * kPage, 8), Slot(0xe0000000, kPage, 9)};
  layout.slots[0].flags = kMemslotGuestMemfd;
  layout.slots[2].address_space = 1;
  layout.slots[3].flags = kMemslotReadOnly;
  for (uint32_t i = 0; i < layout.slots.size(); ++i) layout.slots[i].slot = i;
  return layout;
}

TEST(ValidateLayout, AcceptsAWellFormedLayout) {
  EXPECT_TRUE(ValidateLayout(Sample()).ok()) << ValidateLayout(Sample());
}

TEST(ValidateLayout, AcceptsTheEdges) {
  MemoryLayout layout;
  layout.slots = {Slot(0, kPage, 1), Slot(kPage, kPage, 1, kPage),  // adjacent, in both spaces
                  Slot(kTop - kPage, kPage, 2, kTop - kPage)};      // ends at the last page
  EXPECT_TRUE(ValidateLayout(layout).ok()) << ValidateLayout(layout);
  // The same bytes in the other address space are what SMM is.
  layout.slots.push_back(Slot(0, kPage, 1));
  layout.slots.back().address_space = 1;
  EXPECT_TRUE(ValidateLayout(layout).ok()) << ValidateLayout(layout);
}

struct BadCase {
  const char* name;
  std::function<void(MemoryLayout&)> spoil;
  const char* message;  // part of it
};

class ValidateLayoutRefuses : public testing::TestWithParam<BadCase> {};

TEST_P(ValidateLayoutRefuses, WithReason) {
  MemoryLayout layout = Sample();
  GetParam().spoil(layout);
  const absl::Status status = ValidateLayout(layout);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "LAYOUT_INVALID");
  EXPECT_NE(status.message().find(GetParam().message), absl::string_view::npos) << status;
}

INSTANTIATE_TEST_SUITE_P(
    Each, ValidateLayoutRefuses,
    testing::Values(
        BadCase{"NoSlots", [](MemoryLayout& l) { l.slots.clear(); }, "no memslots"},
        BadCase{"TooMany",
                [](MemoryLayout& l) {
                  l.slots.clear();
                  for (uint64_t i = 0; i <= kMaxMemslots; ++i) {
                    l.slots.push_back(Slot(i * kPage, kPage, 7, i * kPage));
                  }
                },
                "129 memslots, at most 128"},
        BadCase{"AddressSpace2", [](MemoryLayout& l) { l.slots[1].address_space = 2; },
                "memslot 1 at gpa 0x100000000 (address space 2)"},
        BadCase{"Empty", [](MemoryLayout& l) { l.slots[1].size_bytes = 0; }, "memslot 1"},
        BadCase{"GpaUnaligned", [](MemoryLayout& l) { l.slots[1].gpa += 8; }, "gpa is not"},
        BadCase{"SizeUnaligned", [](MemoryLayout& l) { l.slots[1].size_bytes += 1; },
                "size is not"},
        BadCase{"OffsetUnaligned", [](MemoryLayout& l) { l.slots[1].offset += 2048; },
                "offset is not"},
        BadCase{"HvaUnaligned", [](MemoryLayout& l) { l.slots[1].hva = 0x7f0000000001; },
                "hva is not"},
        BadCase{"GpaOverflow", [](MemoryLayout& l) { l.slots[1].gpa = kTop; }, "gpa + size"},
        BadCase{"GpaOverflowByOnePage",
                [](MemoryLayout& l) {
                  l.slots[1].gpa = kTop;
                  l.slots[1].size_bytes = kPage;
                },
                "gpa + size"},
        BadCase{"SizeOverflow", [](MemoryLayout& l) { l.slots[1].size_bytes = kTop; }, "overflows"},
        BadCase{"OffsetOverflow", [](MemoryLayout& l) { l.slots[1].offset = kTop; },
                "offset + size"},
        BadCase{"HvaOverflow", [](MemoryLayout& l) { l.slots[1].hva = kTop; }, "hva + size"},
        BadCase{"DirtyLog", [](MemoryLayout& l) { l.slots[1].flags |= kMemslotDirtyLog; },
                "dirty logging"},
        BadCase{"UnknownFlag", [](MemoryLayout& l) { l.slots[1].flags |= 1u << 16; },
                "unknown flags 0x10000"},
        BadCase{"GpaOverlapAtTheEnd", [](MemoryLayout& l) { l.slots[3].gpa = 15 * kPage; },
                "overlaps memslot 0"},
        BadCase{"GpaOverlapAtTheStart",
                [](MemoryLayout& l) {
                  l.slots[0].gpa = 2 * kPage;
                  l.slots[3].gpa = 0;
                  l.slots[3].size_bytes = 3 * kPage;
                },
                "overlaps memslot 0"},
        BadCase{"GpaInside", [](MemoryLayout& l) { l.slots[3].gpa = 4 * kPage; }, "overlaps"},
        BadCase{"SameGpa", [](MemoryLayout& l) { l.slots[3].gpa = 1ull << 32; },
                "overlaps memslot 1"},
        BadCase{"SameBytesOfAFile", [](MemoryLayout& l) { l.slots[1].offset = 15 * kPage; },
                "same file as memslot 0"}),
    [](const testing::TestParamInfo<BadCase>& info) { return info.param.name; });

TEST(ValidateLayout, SameOffsetOfDifferentFilesIsNoOverlap) {
  MemoryLayout layout = Sample();
  layout.slots[1].offset = 0;
  layout.slots[1].inode.device += 1;  // same inode number on another device
  EXPECT_TRUE(ValidateLayout(layout).ok()) << ValidateLayout(layout);
}

TEST(CompareLayouts, IgnoresOrderSlotNumbersAndMappings) {
  const MemoryLayout source = Sample();
  MemoryLayout target = Sample();
  std::swap(target.slots[0], target.slots[3]);
  std::swap(target.slots[1], target.slots[2]);
  for (uint32_t i = 0; i < target.slots.size(); ++i) {
    target.slots[i].slot = 100 + i;
    target.slots[i].hva = 0x7f0000000000 + i * (1ull << 30);
  }
  const absl::Status status = CompareLayouts(source, target, GuestMemfdFlag::kMustMatch);
  EXPECT_TRUE(status.ok()) << status;
}

class CompareLayoutsRefuses : public testing::TestWithParam<BadCase> {};

TEST_P(CompareLayoutsRefuses, NamingTheDifference) {
  for (const auto flag : {GuestMemfdFlag::kMustMatch, GuestMemfdFlag::kIgnored}) {
    MemoryLayout target = Sample();
    GetParam().spoil(target);
    const absl::Status status = CompareLayouts(Sample(), target, flag);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), "LAYOUT_MISMATCH");
    EXPECT_NE(status.message().find(GetParam().message), absl::string_view::npos) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, CompareLayoutsRefuses,
    testing::Values(
        BadCase{"Missing", [](MemoryLayout& l) { l.slots.pop_back(); },
                "the source has 4 memslots, the target 3"},
        BadCase{"Extra", [](MemoryLayout& l) { l.slots.push_back(Slot(1ull << 40, kPage, 3)); },
                "the target 5"},
        BadCase{"Gpa", [](MemoryLayout& l) { l.slots[3].gpa += kPage; },
                "gpa is 0xe0000000 in the source and 0xe0001000 in the target"},
        BadCase{"Size", [](MemoryLayout& l) { l.slots[3].size_bytes += kPage; }, "size is"},
        BadCase{"ReadOnly", [](MemoryLayout& l) { l.slots[3].flags = 0; }, "flags is 0x2"},
        BadCase{"Device", [](MemoryLayout& l) { l.slots[3].inode.device = 3; }, "device"},
        BadCase{"Inode", [](MemoryLayout& l) { l.slots[3].inode.inode = 3; }, "inode of the file"},
        BadCase{"Offset", [](MemoryLayout& l) { l.slots[3].offset = kPage; }, "offset"},
        BadCase{"AddressSpace",
                [](MemoryLayout& l) {
                  l.slots[2].address_space = 0;
                  l.slots[2].gpa = 1ull << 40;  // last in either order
                },
                "address space is"}),
    [](const testing::TestParamInfo<BadCase>& info) { return info.param.name; });

TEST(CompareLayouts, GuestMemfdFlagCountsOnlyWhereTold) {
  MemoryLayout mapped = Sample();
  mapped.slots[0].flags = 0;  // MAP: an ordinary slot over the same file
  EXPECT_TRUE(CompareLayouts(Sample(), mapped, GuestMemfdFlag::kIgnored).ok());
  const absl::Status status = CompareLayouts(Sample(), mapped, GuestMemfdFlag::kMustMatch);
  EXPECT_EQ(ReasonOf(status), "LAYOUT_MISMATCH");
}

TEST(MemoryLayout, CanonicalOrderIsAddressSpaceThenGpa) {
  MemoryLayout layout = Sample();
  layout.Canonicalize();
  EXPECT_EQ(layout.slots[0].gpa, 0u);
  EXPECT_EQ(layout.slots[1].gpa, 0xe0000000u);
  EXPECT_EQ(layout.slots[2].gpa, 1ull << 32);
  EXPECT_EQ(layout.slots[3].address_space, 1u);
}

TEST(MemoryLayout, TotalIsTheSumOfSlots) { EXPECT_EQ(Sample().TotalBytes(), 29 * kPage); }

// Digest and comparison must agree on what counts, except for the guest_memfd flag.
TEST(MemoryLayout, DigestChangesExactlyWithWhatIsCompared) {
  const uint64_t digest = Sample().Digest();
  const auto digest_after = [](const std::function<void(MemoryLayout&)>& change) {
    MemoryLayout layout = Sample();
    change(layout);
    return layout.Digest();
  };
  using Layout = MemoryLayout&;
  EXPECT_EQ(digest, digest_after([](Layout l) { std::swap(l.slots[0], l.slots[2]); }));
  EXPECT_EQ(digest, digest_after([](Layout l) { l.slots[1].hva = kPage; }));
  EXPECT_EQ(digest, digest_after([](Layout l) { l.slots[1].slot = 55; }));
  EXPECT_EQ(digest, digest_after([](Layout l) { l.slots[1].flags ^= kMemslotGuestMemfd; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].gpa += kPage; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].size_bytes += kPage; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].flags |= kMemslotReadOnly; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].inode.inode += 1; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].inode.device += 1; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].offset += kPage; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots[1].address_space = 1; }));
  EXPECT_NE(digest, digest_after([](Layout l) { l.slots.pop_back(); }));
}

}  // namespace
}  // namespace rehome
