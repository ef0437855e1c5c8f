// SPDX-License-Identifier: Apache-2.0
#include "daemon/escrow_description.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/wire_messages.h"
#include "daemon/vm_description.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing_support::Bytes;
using testing_support::CountOpenFds;
using testing_support::DescribedVm;
using testing_support::MakeDescribedVm;
using testing_support::MakeMemfd;

class EscrowDescriptionTest : public testing::Test {
 protected:
  void SetUp() override {
    DescribedVm source = MakeDescribedVm(), target = MakeDescribedVm(/*is_source=*/false);
    // The target has the source's memory, its files in the other order.
    for (size_t i = 0; i < 2; ++i) {
      target.fds[1 + i] = *Duplicate(source.fds[2 - i].borrow());
      target.parts.slots[i] = source.parts.slots[i];
      target.parts.slots[i].memory_index = static_cast<uint32_t>(1 - i);
      target.parts.slots[i].hva += 0x1000;
    }
    target.Update();
    source_ = Assemble(std::move(source), DescriptionKind::kSource);
    target_ = Assemble(std::move(target), DescriptionKind::kPrepared);
    absl::StatusOr<UniqueFd> description = DescribeEscrow(source_, target_);
    ASSERT_TRUE(description.ok()) << description.status();
    description_ = *std::move(description);
  }
  VmDescription Assemble(DescribedVm vm, DescriptionKind kind) {
    absl::StatusOr<WireDescription> wire =
        ParseDescription(vm.parts.Payload(), vm.fds.size(), kind);
    EXPECT_TRUE(wire.ok()) << wire.status();
    absl::StatusOr<VmDescription> assembled =
        AssembleDescription(*wire, std::move(vm.fds), *kinds_);
    EXPECT_TRUE(assembled.ok()) << assembled.status();
    return *std::move(assembled);
  }
  // What a store gives back.
  std::vector<NamedFd> Stored(BorrowedFd description) {
    std::vector<NamedFd> fds;
    for (const EscrowItem& item : EscrowItems(source_, target_, block_.borrow(), description)) {
      fds.push_back({.name = item.name, .fd = *Duplicate(item.fd)});
    }
    return fds;
  }
  std::vector<NamedFd> Stored() { return Stored(description_.borrow()); }
  Bytes DescriptionBytes() const {
    Bytes bytes(kMaxEscrowDescriptionBytes);
    const ssize_t size = pread(description_.borrow().raw(), bytes.data(), bytes.size(), 0);
    EXPECT_GT(size, 0);
    bytes.resize(static_cast<size_t>(size));
    return bytes;
  }
  static UniqueFd Sealed(const Bytes& bytes) {
    UniqueFd file(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(write(file.borrow().raw(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(fcntl(file.borrow().raw(), F_ADD_SEALS,
                    F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL),
              0);
    return file;
  }
  absl::Status Restore(std::vector<NamedFd> fds) {
    return RestoreEscrow(std::move(fds), *kinds_).status();
  }

  const std::unique_ptr<FdKinds> kinds_ = NewSimFdKinds();
  VmDescription source_, target_;
  UniqueFd block_ = MakeMemfd();
  UniqueFd description_;
};

TEST_F(EscrowDescriptionTest, WhatWasStoredIsPutTogetherAgain) {
  const size_t fds_before = CountOpenFds();
  {
    absl::StatusOr<RestoredEscrow> restored = RestoreEscrow(Stored(), *kinds_);
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->source.vm_id, "vm-1");
    EXPECT_EQ(restored->source.vcpu_count, source_.vcpu_count);
    EXPECT_EQ(restored->source.state_capacity, source_.state_capacity);
    EXPECT_EQ(restored->source.state_format, source_.state_format);
    EXPECT_EQ(restored->source.layout_digest, source_.layout_digest);
    EXPECT_EQ(restored->target.layout_digest, target_.layout_digest);
    EXPECT_EQ(restored->target.layout.slots[0].hva, target_.layout.slots[0].hva);
    const auto same = [](const UniqueFd& a, const UniqueFd& b) {
      return Identify(a.borrow())->id == Identify(b.borrow())->id;
    };
    EXPECT_TRUE(same(restored->source.vm, source_.vm));
    EXPECT_TRUE(same(restored->target.vm, target_.vm));
    EXPECT_TRUE(same(restored->source.config, source_.config));
    EXPECT_TRUE(same(restored->block, block_));
    ASSERT_EQ(restored->source.memory.size(), 2u);
    ASSERT_EQ(restored->target.memory.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(same(restored->source.memory[i], source_.memory[i]));
      EXPECT_TRUE(same(restored->target.memory[i], target_.memory[i]));
    }
    ASSERT_EQ(restored->source.named.size(), 2u);
    EXPECT_EQ(restored->source.named[1].name, source_.named[1].name);
  }
  EXPECT_EQ(CountOpenFds(), fds_before);
}

// A console that is both stdin and stdout of a VMM; and the target's memory, above, which is in
// another order than the source's.
TEST_F(EscrowDescriptionTest, DescriptorsOfOneOpenFileAreOneItemAndComeBackAsMany) {
  source_.named[1].fd = *Duplicate(source_.named[0].fd.borrow());
  description_ = *DescribeEscrow(source_, target_);
  std::vector<NamedFd> stored = Stored();
  for (size_t i = 0; i < stored.size(); ++i) {
    EXPECT_NE(stored[i].name, absl::StrCat(kEscrowNamedPrefix, 1));
    for (size_t n = 0; n < i; ++n) {
      EXPECT_FALSE(IsSameOpenFile(stored[n].fd.borrow(), stored[i].fd.borrow()))
          << stored[n].name << " and " << stored[i].name << ": systemd keeps only one";
    }
  }
  absl::StatusOr<RestoredEscrow> restored = RestoreEscrow(std::move(stored), *kinds_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_EQ(restored->source.named.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(restored->source.named[i].name, source_.named[i].name);
    EXPECT_TRUE(
        IsSameOpenFile(restored->source.named[i].fd.borrow(), source_.named[i].fd.borrow()));
    EXPECT_TRUE(
        IsSameOpenFile(restored->target.memory[i].borrow(), source_.memory[1 - i].borrow()));
  }
}

TEST_F(EscrowDescriptionTest, OfARescueTheBlockAndTheVmsComeBackTheLatestLast) {
  const UniqueFd rescue_block = MakeMemfd();
  std::vector<NamedFd> fds = Stored();
  fds.push_back({kEscrowRescueBlock, *Duplicate(rescue_block.borrow())});
  fds.push_back({absl::StrCat(kEscrowRescueVmPrefix, 1), *Duplicate(target_.vm.borrow())});
  fds.push_back({absl::StrCat(kEscrowRescueVmPrefix, 0), *Duplicate(source_.vm.borrow())});
  absl::StatusOr<RestoredEscrow> restored = RestoreEscrow(std::move(fds), *kinds_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(Identify(restored->rescue_block.borrow())->id, Identify(rescue_block.borrow())->id);
  ASSERT_EQ(restored->rescue_vms.size(), 2u);
  EXPECT_EQ(Identify(restored->rescue_vms[1].vm.borrow())->id, Identify(target_.vm.borrow())->id);
}

TEST_F(EscrowDescriptionTest, ARescuesVmThatIsNoneIsDamage) {
  std::vector<NamedFd> fds = Stored();
  fds.push_back(
      {absl::StrCat(kEscrowRescueVmPrefix, 0), UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC))});
  EXPECT_EQ(ReasonOf(Restore(std::move(fds))), reason::kEscrowDamaged);
}

TEST_F(EscrowDescriptionTest, EachItemIsNeededAndNoneMayBeThereTwiceOrBesides) {
  const size_t items = Stored().size();
  EXPECT_EQ(items, 9u) << "the target maps the source's own files";
  const size_t fds_before = CountOpenFds();
  for (size_t i = 0; i < items; ++i) {
    std::vector<NamedFd> missing = Stored();
    missing.erase(missing.begin() + static_cast<ptrdiff_t>(i));
    EXPECT_EQ(ReasonOf(Restore(std::move(missing))), reason::kEscrowDamaged) << i;
    std::vector<NamedFd> twice = Stored();
    twice.push_back({.name = twice[i].name, .fd = *Duplicate(twice[i].fd.borrow())});
    EXPECT_EQ(ReasonOf(Restore(std::move(twice))), reason::kEscrowDamaged) << i;
  }
  std::vector<NamedFd> besides = Stored();
  besides.push_back({.name = "memory-2", .fd = MakeMemfd()});
  EXPECT_EQ(ReasonOf(Restore(std::move(besides))), reason::kEscrowDamaged);
  EXPECT_EQ(Restore({}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CountOpenFds(), fds_before) << "a refused escrow is closed";
}

TEST_F(EscrowDescriptionTest, AnItemThatIsAnotherFileIsDamage) {
  for (const char* name : {kEscrowDescription, "memory-0", "memory-1", kEscrowConfig}) {
    std::vector<NamedFd> fds = Stored();
    for (NamedFd& fd : fds) {
      if (fd.name == name) fd.fd = MakeMemfd();
    }
    EXPECT_EQ(ReasonOf(Restore(std::move(fds))), reason::kEscrowDamaged) << name;
  }
  std::vector<NamedFd> swapped = Stored();
  for (NamedFd& fd : swapped) {
    if (fd.name.starts_with(kEscrowMemoryPrefix))
      fd.name = fd.name == "memory-0" ? "memory-1" : "memory-0";
  }
  EXPECT_EQ(ReasonOf(Restore(std::move(swapped))), reason::kEscrowDamaged);
}

TEST_F(EscrowDescriptionTest, ADescriptionThatSomebodyCouldStillChangeIsRefused) {
  const Bytes bytes = DescriptionBytes();
  const UniqueFd open(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(write(open.borrow().raw(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(ReasonOf(Restore(Stored(open.borrow()))), reason::kEscrowDamaged);
  EXPECT_TRUE(Restore(Stored(Sealed(bytes).borrow())).ok()) << "the same bytes, sealed";
}

TEST_F(EscrowDescriptionTest, NoDamageOfOneByteCrashesAndNoneChangesWhoseMemoryItIs) {
  const Bytes good = DescriptionBytes();
  size_t refused = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    Bytes bytes = good;
    bytes[at] ^= std::byte{0xff};
    absl::StatusOr<RestoredEscrow> restored =
        RestoreEscrow(Stored(Sealed(bytes).borrow()), *kinds_);
    if (!restored.ok()) {
      EXPECT_EQ(ReasonOf(restored.status()), reason::kEscrowDamaged) << at;
      ++refused;
      continue;
    }
    EXPECT_EQ(Identify(restored->source.memory[0].borrow())->id,
              Identify(source_.memory[0].borrow())->id);
  }
  EXPECT_GT(refused, good.size() / 2);
  for (size_t size = 1; size < good.size(); ++size) {
    const Bytes cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_EQ(ReasonOf(Restore(Stored(Sealed(cut).borrow()))), reason::kEscrowDamaged) << size;
  }
  Bytes longer = good;
  longer.resize(kMaxEscrowDescriptionBytes + 1);
  EXPECT_EQ(ReasonOf(Restore(Stored(Sealed(longer).borrow()))), reason::kEscrowDamaged);
}

}  // namespace
}  // namespace rehome
