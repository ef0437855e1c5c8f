// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/guest_ram.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "kvmglue/sim/simulated_kernel.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/sim_cpu.h"

namespace rehome {
namespace {

constexpr uint64_t kMib = 1 << 20;
constexpr uint64_t kPage = 4096;

TEST(PlanSlotsTest, SmallRamIsOneSlotAtZero) {
  const std::vector<RamSlot> slots = PlanSlots(64 * kMib, 1);
  ASSERT_EQ(slots.size(), 1u);
  EXPECT_EQ(slots[0].slot.gpa, 0u);
  EXPECT_EQ(slots[0].slot.size_bytes, 64 * kMib);
}

TEST(PlanSlotsTest, EightGibSkipTheHole) {
  const std::vector<RamSlot> slots = PlanSlots(8192 * kMib, 1);
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_EQ(slots[0].slot.size_bytes, 0xc0000000u);
  EXPECT_EQ(slots[1].slot.gpa, 0x100000000u);
  EXPECT_EQ(slots[1].slot.offset, 0xc0000000u);
  EXPECT_EQ(slots[1].slot.size_bytes, 8192 * kMib - 0xc0000000u);
}

TEST(PlanSlotsTest, EveryShapeIsAWellFormedLayoutOfTheWholeRam) {
  for (const uint64_t mib : {16ull, 96ull, 3072ull, 3073ull, 4096ull, 8192ull, 65536ull}) {
    for (const uint32_t files : {1u, 2u, 3u, 16u}) {
      if (mib % files != 0) continue;
      MemoryLayout layout;
      uint32_t last_file = 0;
      for (const RamSlot& slot : PlanSlots(mib * kMib, files)) {
        EXPECT_LE(slot.slot.offset + slot.slot.size_bytes, mib / files * kMib);
        layout.slots.push_back(slot.slot);
        layout.slots.back().inode = {1, slot.memory_index};
        last_file = slot.memory_index;
      }
      EXPECT_EQ(last_file, files - 1);
      EXPECT_EQ(layout.TotalBytes(), mib * kMib);
      EXPECT_TRUE(ValidateLayout(layout).ok()) << mib << " in " << files;
    }
  }
}

TEST(PlanRamTest, EachTypeGetsTheMemoryItNeeds) {
  EXPECT_EQ(PlanRam(VmType::kDefault, MemoryKind::kAuto)->access, RamAccess::kBoundAndMapped);
  EXPECT_EQ(PlanRam(VmType::kDefault, MemoryKind::kMemfd)->access, RamAccess::kMapped);
  EXPECT_EQ(PlanRam(VmType::kSwProtected, MemoryKind::kAuto)->access, RamAccess::kBound);
  EXPECT_EQ(PlanRam(VmType::kTdx, MemoryKind::kGuestMemfd)->access, RamAccess::kBound);
  EXPECT_EQ(PlanRam(VmType::kSev, MemoryKind::kAuto)->access, RamAccess::kMapped);
  for (const auto& [type, kind] : {std::pair{VmType::kSev, MemoryKind::kGuestMemfd},
                                   std::pair{VmType::kSwProtected, MemoryKind::kMemfd}}) {
    EXPECT_EQ(ReasonOf(PlanRam(type, kind).status()), "MEMORY_KIND_UNSUPPORTED");
  }
}

// A VM of the simulated kernel and memory for it.
class GuestRamTest : public testing::Test {
 protected:
  std::unique_ptr<Vm> NewVm(VmType type = VmType::kDefault) {
    auto vm = Vm::Create(kernel_, type, LinkAbi());
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *std::move(vm);
  }
  static UniqueFd Memfd(uint64_t size) {
    UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(fd.borrow().raw(), static_cast<off_t>(size)), 0);
    return fd;
  }
  // Takes `slots` over files of the given sizes.
  absl::Status TakeOver(std::vector<RamSlot> slots, const std::vector<uint64_t>& files,
                        uint64_t ram_bytes) {
    const std::unique_ptr<Vm> vm = NewVm();
    std::vector<UniqueFd> fds;
    for (const uint64_t size : files) fds.push_back(Memfd(size));
    return GuestRam::TakeOver(kernel_, *vm, RamAccess::kMapped, std::move(slots), std::move(fds),
                              ram_bytes)
        .status();
  }
  static RamSlot Slot(uint32_t number, uint64_t gpa, uint64_t size, uint32_t file,
                      uint64_t offset) {
    RamSlot slot;
    slot.slot = {.slot = number, .gpa = gpa, .size_bytes = size, .offset = offset};
    slot.slot.inode = {1, file};
    slot.memory_index = file;
    return slot;
  }
  static uint64_t AllocatedBytes(BorrowedFd fd) {
    struct stat file {};
    EXPECT_EQ(fstat(fd.raw(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  }

  SimGuestCpu cpu_;
  SimulatedKernel kernel_{SimulatedKernelOptions(), cpu_};
};

TEST_F(GuestRamTest, TakenOverMemoryIsTheSameMemory) {
  const std::unique_ptr<Vm> source = NewVm(), target = NewVm();
  auto ram = GuestRam::Create(kernel_, *source, *PlanRam(VmType::kDefault, MemoryKind::kAuto),
                              8 * kMib, 2);
  ASSERT_TRUE(ram.ok()) << ram.status();
  ASSERT_TRUE((*ram)->Bind(*source).ok());
  (*ram)->mapping(1)[5] = std::byte{42};

  std::vector<UniqueFd> files;
  for (size_t i = 0; i < 2; ++i) files.push_back(*Duplicate((*ram)->file(i)));
  auto taken = GuestRam::TakeOver(kernel_, *target, RamAccess::kMapped, (*ram)->slots(),
                                  std::move(files), 8 * kMib);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE((*taken)->Bind(*target).ok());
  EXPECT_EQ((*taken)->mapping(1)[5], std::byte{42});
  EXPECT_EQ((*taken)->slots()[0].slot.flags, 0u);
  EXPECT_EQ((*taken)->slots()[0].slot.inode, (*ram)->slots()[0].slot.inode);
  EXPECT_NE((*taken)->slots()[0].slot.hva, (*ram)->slots()[0].slot.hva);
}

TEST_F(GuestRamTest, LinkedMemoryIsAnotherFileOfTheSameInode) {
  const std::unique_ptr<Vm> source = NewVm(VmType::kSwProtected);
  const std::unique_ptr<Vm> target = NewVm(VmType::kSwProtected);
  auto ram = GuestRam::Create(kernel_, *source, *PlanRam(VmType::kSwProtected, MemoryKind::kAuto),
                              8 * kMib, 1);
  ASSERT_TRUE(ram.ok()) << ram.status();
  std::vector<UniqueFd> files;
  files.push_back(*Duplicate((*ram)->file(0)));
  auto taken = GuestRam::TakeOver(kernel_, *target, RamAccess::kBound, (*ram)->slots(),
                                  std::move(files), 8 * kMib);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE((*taken)->mapped());
  EXPECT_EQ((*taken)->slots()[0].slot.hva, 0u);
  EXPECT_EQ(Identify((*taken)->file(0))->id, Identify((*ram)->file(0))->id);
  EXPECT_TRUE((*taken)->Bind(*target).ok());
}

TEST_F(GuestRamTest, SlotsThatDoNotFitTheFilesAreRefused) {
  const uint64_t ram = 8 * kMib;
  EXPECT_TRUE(TakeOver({Slot(0, 0, ram, 0, 0)}, {ram}, ram).ok());
  const struct {
    const char* what;
    std::vector<RamSlot> slots;
    std::vector<uint64_t> files;
  } kCases[] = {
      {"no slots", {}, {ram}},
      {"file not there", {Slot(0, 0, ram, 1, 0)}, {ram}},
      {"beyond the file", {Slot(0, 0, ram, 0, 0)}, {ram - kPage}},
      {"offset beyond the file", {Slot(0, 0, ram, 0, 2 * ram)}, {ram}},
      {"offset + size wraps", {Slot(0, 0, ram, 0, ~0ull - ram + 1)}, {ram}},
      {"less than the RAM", {Slot(0, 0, ram / 2, 0, 0)}, {ram}},
      {"more than the RAM", {Slot(0, 0, ram, 0, 0), Slot(1, ram, ram, 1, 0)}, {ram, ram}},
      {"overlapping", {Slot(0, 0, ram / 2, 0, 0), Slot(1, kPage, ram / 2, 0, ram / 2)}, {ram}},
      {"the same bytes twice", {Slot(0, 0, ram / 2, 0, 0), Slot(1, ram, ram / 2, 0, 0)}, {ram}},
      {"not aligned", {Slot(0, 1, ram, 0, 0)}, {ram}},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(ReasonOf(TakeOver(test.slots, test.files, ram)), "LAYOUT_INVALID") << test.what;
  }
}

TEST_F(GuestRamTest, PopulatingAllocatesNothing) {
  const std::unique_ptr<Vm> vm = NewVm();
  auto ram =
      GuestRam::Create(kernel_, *vm, *PlanRam(VmType::kDefault, MemoryKind::kMemfd), 256 * kMib, 2);
  ASSERT_TRUE(ram.ok()) << ram.status();
  // Some pages: the first, a run across the pieces in which residency is asked for, the last.
  (*ram)->mapping(0)[0] = std::byte{1};
  for (uint64_t page = 0; page < 10; ++page) {
    (*ram)->mapping(0)[64 * kMib + page * kPage - 5 * kPage] = std::byte{1};
  }
  (*ram)->mapping(1)[128 * kMib - 1] = std::byte{1};
  const auto populated = (*ram)->Populate(~0ull);
  ASSERT_TRUE(populated.ok()) << populated.status();
  EXPECT_EQ(*populated, 12 * kPage);
  EXPECT_EQ(AllocatedBytes((*ram)->file(0)), 11 * kPage);
  EXPECT_EQ(AllocatedBytes((*ram)->file(1)), kPage);
  EXPECT_EQ(*(*ram)->Populate(0), 0u);
}

}  // namespace
}  // namespace rehome
