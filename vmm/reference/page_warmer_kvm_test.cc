// SPDX-License-Identifier: Apache-2.0
//
// Warming on real KVM, in a VM that is about to take a guest over.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <vector>

#include "kvmglue/kvm_test_guest.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/why_no_kvm.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest_loader.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/page_warmer.h"

namespace rehome {
namespace {

constexpr uint64_t kMemoryMib = 16;
constexpr uint32_t kFreeSlot = 5;
// Long beside the 10 ms that 16 MiB take.
constexpr std::chrono::minutes kEnough{1};

class PageWarmerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = WhyNoKvm(); !why.empty()) GTEST_SKIP() << why;
    kernel_ = OpenRealKvm();
    GuestOptions options;
    options.memory_mib = kMemoryMib;
    options.memory_kind = MemoryKind::kMemfd;
    auto source = Machine::Start({.kernel = *kernel_}, options);
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    auto memory = Duplicate(source_->ram().file(0));
    ASSERT_TRUE(memory.ok()) << memory.status();
    ReceivedVm received = {.config = source_->config(), .slots = source_->ram().slots()};
    received.memory.push_back(*std::move(memory));
    received.console = *Console::Unplugged();
    auto machine = Machine::Prepare({.kernel = *kernel_}, std::move(received));
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }
  Vcpu& vcpu() { return *machine_->vcpus()[0]; }
  std::span<std::byte> ram() { return machine_->ram().mapping(0); }
  absl::StatusOr<uint64_t> Warm(std::chrono::milliseconds budget) {
    return PageWarmer::Warm(machine_->vm(), vcpu(), machine_->ram(), kFreeSlot, budget);
  }
  uint64_t ResidentBytes() {
    std::vector<unsigned char> resident(ram().size() / REHOME_GUEST_PAGE);
    EXPECT_EQ(mincore(ram().data(), ram().size(), resident.data()), 0);
    uint64_t bytes = 0;
    for (const unsigned char page : resident) bytes += (page & 1) * REHOME_GUEST_PAGE;
    return bytes;
  }

  std::unique_ptr<KvmSyscalls> kernel_;
  std::unique_ptr<Machine> source_;
  std::unique_ptr<Machine> machine_;  // the target
};

TEST_F(PageWarmerTest, TouchesWhatIsThereAndChangesNothing) {
  ram()[5 << 20] = std::byte{1};
  ram()[ram().size() - 1] = std::byte{2};
  const std::vector<std::byte> before(ram().begin(), ram().end());
  const uint64_t resident = ResidentBytes();
  const auto warmed = Warm(kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_EQ(*warmed, resident);
  EXPECT_EQ(std::memcmp(ram().data(), before.data(), before.size()), 0);
}

TEST_F(PageWarmerTest, AllocatesNothing) {
  const uint64_t resident = ResidentBytes();
  ASSERT_LT(resident, ram().size());
  ASSERT_TRUE(Warm(kEnough).ok());
  EXPECT_EQ(ResidentBytes(), resident);
}

TEST_F(PageWarmerTest, StopsWhenItsTimeIsOver) {
  const auto warmed = Warm(std::chrono::milliseconds(0));
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_EQ(*warmed, 0u);
}

TEST_F(PageWarmerTest, LeavesAMemoryAloneThatHoldsAnotherGuest) {
  ram()[REHOME_GUEST_BOOT_INFO] ^= std::byte{1};
  const auto warmed = Warm(kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_EQ(*warmed, 0u);
}

// The guest's tables are the guest's word.
TEST_F(PageWarmerTest, EndsWhereTheGuestsTablesLeadNowhere) {
  uint64_t nowhere = 0;
  std::memcpy(ram().data() + REHOME_GUEST_PAGE_TABLES + REHOME_GUEST_PAGE, &nowhere,
              sizeof(nowhere));
  const auto warmed = Warm(kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_EQ(*warmed, 0u);
}

TEST_F(PageWarmerTest, EndsWhereTheGuestsTablesLeadOutOfItsMemory) {
  // The first 2 MiB of addresses: 1 GiB further up, where nothing is.
  uint64_t entry = 0;
  std::byte* place = ram().data() + REHOME_GUEST_PAGE_TABLES + 2 * REHOME_GUEST_PAGE;
  std::memcpy(&entry, place, sizeof(entry));
  entry += 1 << 30;
  std::memcpy(place, &entry, sizeof(entry));
  const auto warmed = Warm(kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_EQ(*warmed, 0u);
}

// The page fault must not find the guest's handlers, which are mapped.
TEST_F(PageWarmerTest, EndsAtAPageThatTheGuestHasUnmapped) {
  ram()[5 << 20] = std::byte{1};
  const uint64_t nothing = 0;
  std::memcpy(ram().data() + REHOME_GUEST_PAGE_TABLES + 2 * REHOME_GUEST_PAGE + 2 * sizeof(nothing),
              &nothing, sizeof(nothing));
  const std::vector<std::byte> before(ram().begin(), ram().end());
  const auto warmed = Warm(kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  EXPECT_LT(*warmed, ResidentBytes());
  EXPECT_EQ(std::memcmp(ram().data(), before.data(), before.size()), 0);
}

TEST_F(PageWarmerTest, LeavesNoRequestToComeBackAtOnce) {
  auto fresh = std::make_unique<VcpuState>();
  ASSERT_TRUE(vcpu().SaveState(*fresh).ok());
  ASSERT_TRUE(machine_->WarmUp(*kernel_, kEnough).ok());
  ASSERT_TRUE(vcpu().RestoreState(*fresh).ok());
  // From the reset vector, where nothing is: whatever it does there, it does not come back for us.
  const auto exit = vcpu().Run();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_NE(*exit, VcpuExit::kInterrupted);
}

// What is restored into a vCPU that has warmed is all that it then has.
TEST_F(PageWarmerTest, LeavesTheVcpuFitForAGuest) {
  auto before = std::make_unique<VcpuState>();
  ASSERT_TRUE(vcpu().SaveState(*before).ok());
  const auto warmed = machine_->WarmUp(*kernel_, kEnough);
  ASSERT_TRUE(warmed.ok()) << warmed.status();
  ASSERT_TRUE(vcpu().RestoreState(*before).ok());
  auto after = std::make_unique<VcpuState>();
  ASSERT_TRUE(vcpu().SaveState(*after).ok());
  EXPECT_EQ(std::memcmp(&before->regs, &after->regs, sizeof(before->regs)), 0);
  EXPECT_EQ(std::memcmp(&before->sregs, &after->sregs, sizeof(before->sregs)), 0);
  EXPECT_EQ(before->mp_state.mp_state, after->mp_state.mp_state);
  EXPECT_EQ(before->events.exception.injected, after->events.exception.injected);
  EXPECT_EQ(std::memcmp(before->xsave, after->xsave, before->xsave_bytes), 0);
}

}  // namespace
}  // namespace rehome
