// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/memory_view.h"

#include <gtest/gtest.h>

#include "kvmglue/sim/file_tag.h"

namespace rehome::sim {
namespace {

constexpr uint64_t kGpa = 0x100000;
constexpr uint64_t kSize = 0x4000;

class MemoryViewTest : public ::testing::Test {
 protected:
  MemoryViewTest() {
    const UniqueFd fd(static_cast<int>(CreateSealedMemfd("test", 2 * kSize).value));
    EXPECT_TRUE(GuestMemory::Map(fd.borrow(), memory_).ok());
    ViewSlot slot;
    slot.gpa = kGpa;
    slot.size = kSize;
    slot.shared = shared_;
    view_.slots.push_back(slot);
  }

  ViewSlot& slot() { return view_.slots[0]; }
  // Gives the slot a usable guest_memfd.
  void Bind(bool file_only) {
    slot().memory = memory_;
    slot().offset = kSize;
    slot().file_usable = true;
    slot().file_only = file_only;
  }
  std::byte* InFile(uint64_t offset) { return memory_->base() + kSize + offset; }
  Translation At(uint64_t offset, uint64_t length = 8, SimAccess access = SimAccess::kWrite) {
    return view_.Translate(kGpa + offset, length, access);
  }

  alignas(4096) std::byte shared_[kSize];
  std::shared_ptr<GuestMemory> memory_;
  MemoryView view_;
};

TEST_F(MemoryViewTest, SharedAccessGoesToUserspace) {
  const Translation translation = At(0x123);
  EXPECT_EQ(translation.host, shared_ + 0x123);
  EXPECT_EQ(translation.shared_slot, &slot());
}

TEST_F(MemoryViewTest, PrivateAccessGoesToTheFileAtItsOffset) {
  Bind(false);
  view_.private_ranges = {{kGpa + 0x1000, kGpa + 0x2000}};
  EXPECT_EQ(At(0x1008).host, InFile(0x1008));
  EXPECT_EQ(At(0x1008).shared_slot, nullptr);
  EXPECT_EQ(At(0x2000).host, shared_ + 0x2000) << "attributes decide, page by page";
}

TEST_F(MemoryViewTest, MappableFileServesSharedAccessesToo) {
  Bind(true);
  EXPECT_EQ(At(0).host, InFile(0));
}

TEST_F(MemoryViewTest, PrivateAccessWithoutUsableFileIsAMemoryFault) {
  view_.private_ranges = {{kGpa, kGpa + kSize}};
  for (const bool bound : {false, true}) {
    if (bound) Bind(false);
    slot().file_usable = false;
    const Translation translation = At(0x1234);
    EXPECT_EQ(translation.host, nullptr);
    EXPECT_EQ(translation.fault, TranslationFault::kMemoryFault);
    EXPECT_EQ(translation.fault_gpa, kGpa + 0x1000) << "of the page";
    EXPECT_TRUE(translation.fault_is_private);
  }
}

TEST_F(MemoryViewTest, UnusableFileThatServesSharedAccessesFaultsAsShared) {
  Bind(true);
  slot().file_usable = false;
  EXPECT_EQ(At(0).fault, TranslationFault::kMemoryFault);
  EXPECT_FALSE(At(0).fault_is_private);
}

TEST_F(MemoryViewTest, NoSlotMeansEmulationUnlessTheRangeIsPrivate) {
  EXPECT_EQ(view_.Translate(0, 8, SimAccess::kRead).fault, TranslationFault::kNoSlot);
  view_.private_ranges = {{0, 0x1000}};
  EXPECT_EQ(view_.Translate(0, 8, SimAccess::kRead).fault, TranslationFault::kMemoryFault);
}

TEST_F(MemoryViewTest, WritesToAReadOnlySlotAreNotMemory) {
  slot().read_only = true;
  EXPECT_EQ(At(0, 8, SimAccess::kRead).host, shared_);
  EXPECT_EQ(At(0, 8, SimAccess::kWrite).fault, TranslationFault::kNoSlot);
}

TEST_F(MemoryViewTest, RangeMustEndInItsSlot) {
  EXPECT_NE(At(kSize - 8, 8).host, nullptr);
  const Translation beyond = At(kSize - 8, 9);
  EXPECT_EQ(beyond.fault, TranslationFault::kNoSlot);
  EXPECT_EQ(beyond.fault_gpa, kGpa + kSize);
  EXPECT_EQ(At(0, UINT64_MAX).host, nullptr);
}

TEST_F(MemoryViewTest, RangeMustNotCrossTheBorderOfPrivacy) {
  Bind(false);
  view_.private_ranges = {{kGpa + 0x1000, kGpa + 0x2000}};
  const Translation into = At(0xff8, 16);
  EXPECT_EQ(into.fault, TranslationFault::kMemoryFault);
  EXPECT_EQ(into.fault_gpa, kGpa + 0x1000);
  EXPECT_TRUE(into.fault_is_private);
  const Translation out_of = At(0x1ff8, 16);
  EXPECT_EQ(out_of.fault_gpa, kGpa + 0x2000);
  EXPECT_FALSE(out_of.fault_is_private);
}

}  // namespace
}  // namespace rehome::sim
