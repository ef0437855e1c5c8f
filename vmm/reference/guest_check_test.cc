// SPDX-License-Identifier: Apache-2.0
//
// A guest made of the real step function over an array, and every way to damage it.
#include "vmm/reference/guest_check.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint64_t kRam = 8 << 20;
constexpr uint32_t kVcpus = 2;
constexpr uint64_t kPages = 32;
constexpr uint64_t kSeed = 4711;

// The guest without a CPU: RAM is one array, and the vCPUs step when told to.
class ArrayGuest {
 public:
  ArrayGuest() : ram_(kRam) {
    auto* boot = At<rehome_guest_boot_info>(REHOME_GUEST_BOOT_INFO);
    boot->magic = REHOME_GUEST_MAGIC;
    boot->abi_version = REHOME_GUEST_ABI_VERSION;
    boot->vcpu_count = kVcpus;
    boot->ram_bytes = kRam;
    boot->seed = kSeed;
    boot->working_set_pages = kPages;
    boot->code_size = 16;
    boot->code_digest = GuestCodeDigest({At<uint8_t>(REHOME_GUEST_CODE), 16});
    for (uint32_t i = 0; i < kVcpus; ++i) {
      mailbox(i)->magic = REHOME_GUEST_MAGIC;
      mailbox(i)->vcpu = i;
      mailbox(i)->chain = rehome_guest_first_chain(kSeed, i);
    }
  }

  template <typename T>
  T* At(uint64_t offset) {
    return reinterpret_cast<T*>(ram_.data() + offset);
  }
  rehome_guest_mailbox* mailbox(uint32_t vcpu) {
    return At<rehome_guest_mailbox>(REHOME_GUEST_MAILBOXES + vcpu * REHOME_GUEST_MAILBOX_STRIDE);
  }
  static rehome_guest_area Area(uint32_t vcpu) {
    return rehome_guest_area_of(kRam, kVcpus, vcpu, kPages);
  }
  uint64_t* word(uint32_t vcpu, uint64_t page) {
    const rehome_guest_area area = Area(vcpu);
    return At<uint64_t>(rehome_guest_word_offset(&area, page));
  }

  // Steps as the payload does: counts errors, publishes chain, then steps.
  void Run(uint32_t vcpu, uint64_t steps) {
    for (uint64_t i = 0; i < steps; ++i) {
      const rehome_guest_step_result result = Step(vcpu, kNeverStop);
      mailbox(vcpu)->errors[REHOME_GUEST_ERROR_PAGE] += result.page_error;
      mailbox(vcpu)->errors[REHOME_GUEST_ERROR_FUTURE] += result.future_error;
      mailbox(vcpu)->chain = result.chain;
      ++mailbox(vcpu)->steps;
    }
  }
  // One step of which only the first `stores` writes reach memory; a fourth is the chain.
  void RunPartOfStep(uint32_t vcpu, int stores) {
    const rehome_guest_step_result result = Step(vcpu, stores);
    if (stores > 3) mailbox(vcpu)->chain = result.chain;
  }

  GuestReport Check(GuestChecker& checker) const {
    const MappedGuestMemory memory({std::as_bytes(std::span(ram_))});
    const auto report = checker.Check(memory);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : GuestReport();
  }
  GuestReport Check() const {
    GuestChecker checker;
    return Check(checker);
  }
  const std::vector<uint8_t>& ram() const { return ram_; }

 private:
  static constexpr int kNeverStop = 1000;
  struct Access {
    ArrayGuest* guest;
    int stores_left;
  };
  static uint64_t Load(void* memory, uint64_t gpa) {
    return *static_cast<Access*>(memory)->guest->At<uint64_t>(gpa);
  }
  static void Store(void* memory, uint64_t gpa, uint64_t value) {
    auto* access = static_cast<Access*>(memory);
    if (access->stores_left-- > 0) *access->guest->At<uint64_t>(gpa) = value;
  }
  rehome_guest_step_result Step(uint32_t vcpu, int stores) {
    const rehome_guest_area area = Area(vcpu);
    Access access{this, stores};
    return rehome_guest_step(&area, mailbox(vcpu)->chain, mailbox(vcpu)->steps, Load, Store,
                             &access);
  }

  std::vector<uint8_t> ram_;
};

TEST(GuestCheckTest, AnUndisturbedGuestIsIntact) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  guest.Run(1, 500);
  const GuestReport report = guest.Check();
  EXPECT_TRUE(report.intact) << report.difference;
  EXPECT_EQ(report.steps, 1500u);
  EXPECT_EQ(report.pages_compared, kVcpus * kPages);
}

TEST(GuestCheckTest, AGuestStoppedAnywhereInAStepIsIntact) {
  for (int stores = 0; stores <= 4; ++stores) {
    ArrayGuest guest;
    guest.Run(0, 777);
    guest.RunPartOfStep(0, stores);
    const GuestReport report = guest.Check();
    EXPECT_TRUE(report.intact) << stores << ": " << report.difference;
  }
}

TEST(GuestCheckTest, EveryDamagedByteOfTheWorkingSetIsFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  const rehome_guest_area area = ArrayGuest::Area(0);
  for (uint64_t offset = 0; offset < kPages * REHOME_GUEST_PAGE; offset += 8) {
    uint64_t* word =
        guest.At<uint64_t>(area.pages_offset + offset / REHOME_GUEST_PAGE * area.stride_bytes +
                           offset % REHOME_GUEST_PAGE);
    *word ^= 1ull << (offset % 64);
    if (offset % 24 == 0) {
      EXPECT_FALSE(guest.Check().intact) << offset;
    }
    *word ^= 1ull << (offset % 64);
  }
  EXPECT_TRUE(guest.Check().intact);
}

TEST(GuestCheckTest, AWriteThatWasLostIsFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  const std::vector<uint8_t> before = guest.ram();
  guest.Run(0, 1);
  // The page that this step wrote gets its old contents back, as if the write had not happened.
  for (uint64_t page = 0; page < kPages; ++page) {
    const uint64_t offset = reinterpret_cast<uint8_t*>(guest.word(0, page)) - guest.ram().data();
    std::memcpy(guest.word(0, page), before.data() + offset, 16);
  }
  const GuestReport report = guest.Check();
  EXPECT_FALSE(report.intact);
  EXPECT_NE(report.difference.find("work page"), std::string::npos) << report.difference;
}

TEST(GuestCheckTest, APageAndItsLedgerThatWentBackTogetherAreFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  const std::vector<uint8_t> before = guest.ram();
  guest.Run(0, 1000);
  const rehome_guest_area area = ArrayGuest::Area(0);
  const uint64_t end = area.pages_offset + kPages * area.stride_bytes;
  std::memcpy(guest.At<uint8_t>(area.ledger_offset), before.data() + area.ledger_offset,
              end - area.ledger_offset);
  // The guest alone cannot see it: page and ledger agree.
  guest.Run(0, 1);
  EXPECT_EQ(guest.mailbox(0)->errors[REHOME_GUEST_ERROR_PAGE], 0u);
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, TwoOwnersRunningTheSameMemoryAreFoundByTheGuestItself) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  const rehome_guest_mailbox first_owner = *guest.mailbox(0);
  guest.Run(0, 200);
  // The other owner goes on from its own registers.
  guest.mailbox(0)->chain = first_owner.chain;
  guest.mailbox(0)->steps = first_owner.steps;
  guest.Run(0, 200);
  EXPECT_GT(guest.mailbox(0)->errors[REHOME_GUEST_ERROR_FUTURE], 0u);
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, AStepThatWasSkippedIsFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  ++guest.mailbox(0)->steps;
  guest.Run(0, 100);
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, AWrongChainIsFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  guest.mailbox(0)->chain ^= 1;
  const GuestReport report = guest.Check();
  EXPECT_FALSE(report.intact);
  EXPECT_NE(report.difference.find("chain"), std::string::npos) << report.difference;
}

TEST(GuestCheckTest, UnfinishedWritesOutOfOrderAreFound) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  // The next step's chain without its page writes.
  GuestModel model(ArrayGuest::Area(0), kSeed, 0);
  model.AdvanceTo(1000);
  guest.mailbox(0)->chain = model.Peek().chain;
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, ErrorsThatTheGuestCountedAreReported) {
  ArrayGuest guest;
  guest.Run(0, 10);
  guest.mailbox(1)->errors[REHOME_GUEST_ERROR_XMM] = 2;
  const GuestReport report = guest.Check();
  EXPECT_FALSE(report.intact);
  EXPECT_EQ(report.errors, 2u);
  EXPECT_NE(report.difference.find("XMM"), std::string::npos) << report.difference;
}

TEST(GuestCheckTest, AVcpuThatNeverStartedIsNotIntact) {
  ArrayGuest guest;
  guest.Run(0, 10);
  guest.mailbox(1)->magic = 0;
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, ChangedCodeIsFound) {
  ArrayGuest guest;
  guest.Run(0, 10);
  *guest.At<uint8_t>(REHOME_GUEST_CODE) ^= 1;
  EXPECT_FALSE(guest.Check().intact);
}

TEST(GuestCheckTest, ACheckerThatFollowsAGuestSeesItGoBack) {
  ArrayGuest guest;
  GuestChecker checker;
  guest.Run(0, 100);
  const ArrayGuest earlier = guest;
  guest.Run(0, 100);
  EXPECT_TRUE(guest.Check(checker).intact);
  guest.Run(0, 100);
  EXPECT_TRUE(guest.Check(checker).intact);
  EXPECT_TRUE(earlier.Check().intact);
  EXPECT_FALSE(earlier.Check(checker).intact);
}

TEST(GuestCheckTest, MemoryWithoutTheGuestIsAnError) {
  const std::vector<std::byte> ram(kRam);
  GuestChecker checker;
  const auto report = checker.Check(MappedGuestMemory({std::span(ram)}));
  EXPECT_EQ(ReasonOf(report.status()), "GUEST_NOT_FOUND");
  const auto nothing = checker.Check(MappedGuestMemory({}));
  EXPECT_EQ(ReasonOf(nothing.status()), "GUEST_RAM_RANGE");
}

TEST(GuestCheckTest, BootInformationOutOfBoundsIsAnError) {
  ArrayGuest guest;
  guest.At<rehome_guest_boot_info>(REHOME_GUEST_BOOT_INFO)->working_set_pages = 1 << 20;
  GuestChecker checker;
  const auto report = checker.Check(MappedGuestMemory({std::as_bytes(std::span(guest.ram()))}));
  EXPECT_EQ(ReasonOf(report.status()), "GUEST_NOT_FOUND");
}

TEST(GuestCheckTest, RamOfSeveralFilesReadsLikeOne) {
  ArrayGuest guest;
  guest.Run(0, 1000);
  const auto ram = std::as_bytes(std::span(guest.ram()));
  const MappedGuestMemory memory(
      {ram.first(REHOME_GUEST_RESERVED + 12345), ram.subspan(REHOME_GUEST_RESERVED + 12345)});
  GuestChecker checker;
  const auto report = checker.Check(memory);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->intact) << report->difference;
}

TEST(GuestAreaTest, AreasStayInsideRamAndApart) {
  for (const uint64_t ram : {8ull << 20, 64ull << 20, 1ull << 30, 8ull << 30, 64ull << 30}) {
    for (const uint32_t vcpus : {1u, 2u, 3u, 8u, 64u}) {
      const uint64_t most = rehome_guest_max_working_set(ram, vcpus);
      ASSERT_GT(most, 0u) << ram << " " << vcpus;
      for (const uint64_t pages : {uint64_t{1}, most / 2 + 1, most}) {
        uint64_t end = REHOME_GUEST_RESERVED;
        for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
          const rehome_guest_area area = rehome_guest_area_of(ram, vcpus, vcpu, pages);
          EXPECT_GE(area.ledger_offset, end);
          EXPECT_GE(area.pages_offset, area.ledger_offset + pages * 8);
          EXPECT_GE(area.stride_bytes, REHOME_GUEST_PAGE);
          end = area.pages_offset + pages * area.stride_bytes;
          EXPECT_LE(end, ram);
        }
      }
    }
  }
  EXPECT_EQ(rehome_guest_max_working_set(REHOME_GUEST_RESERVED, 1), 0u);
}

}  // namespace
}  // namespace rehome
