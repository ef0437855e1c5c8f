// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_description.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/testing/child_harness.h"
#include "daemon/testing/wire_messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::HasSubstr;
using testing_support::CountOpenFds;
using testing_support::DescribedVm;
using testing_support::MakeDescribedVm;
using testing_support::MakeMemfd;

absl::StatusOr<VmDescription> Assemble(DescribedVm vm,
                                       DescriptionKind kind = DescriptionKind::kSource) {
  static const std::unique_ptr<FdKinds> kinds = NewSimFdKinds();
  absl::StatusOr<WireDescription> wire = ParseDescription(vm.parts.Payload(), vm.fds.size(), kind);
  if (!wire.ok()) return wire.status();
  return AssembleDescription(*wire, std::move(vm.fds), *kinds);
}

InodeId InodeOf(BorrowedFd fd) {
  absl::StatusOr<FileIdentity> file = Identify(fd);
  EXPECT_TRUE(file.ok());
  return file.ok() ? file->id : InodeId{};
}

TEST(AssembleDescription, PutsEveryDescriptorInItsPlace) {
  DescribedVm sent = MakeDescribedVm();
  const InodeId vm_inode = InodeOf(sent.fds[0].borrow());
  const InodeId second_memory = InodeOf(sent.fds[2].borrow());
  const InodeId config = InodeOf(sent.fds[3].borrow());
  const uint64_t digest = sent.parts.head.layout_digest;
  absl::StatusOr<VmDescription> vm = Assemble(std::move(sent));
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(vm->vm_id, "vm-1");
  EXPECT_EQ(vm->vcpu_count, 2u);
  EXPECT_EQ(vm->state_format, 2u);
  EXPECT_EQ(vm->state_capacity, 1u << 20);
  EXPECT_EQ(vm->layout_digest, digest);
  EXPECT_EQ(InodeOf(vm->vm.borrow()), vm_inode);
  EXPECT_EQ(InodeOf(vm->config.borrow()), config);
  ASSERT_EQ(vm->memory.size(), 2u);
  EXPECT_EQ(InodeOf(vm->memory[1].borrow()), second_memory);
  ASSERT_EQ(vm->layout.slots.size(), 2u);
  EXPECT_EQ(vm->layout.slots[1].inode, second_memory);
  EXPECT_EQ(vm->layout.slots[1].gpa, 0x1000000u);
  ASSERT_EQ(vm->named.size(), 2u);
  EXPECT_EQ(vm->named[0].name, "console");
}

TEST(AssembleDescription, FollowsTheIndicesNotTheOrderOfTheMemories) {
  DescribedVm sent = MakeDescribedVm();
  const InodeId second_memory = InodeOf(sent.fds[2].borrow());
  std::swap(sent.fds[1], sent.fds[2]);
  std::swap(sent.parts.entries[1], sent.parts.entries[2]);
  absl::StatusOr<VmDescription> vm = Assemble(std::move(sent));
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(InodeOf(vm->memory[1].borrow()), second_memory);
}

struct Lie {
  const char* name;
  std::function<void(DescribedVm&)> tell;
  const char* reason;
  const char* complaint;
};

class AssembleDescriptionLies : public testing::TestWithParam<Lie> {};

TEST_P(AssembleDescriptionLies, AreFoundOutAndEveryDescriptorIsClosed) {
  const size_t before = CountOpenFds();
  {
    DescribedVm vm = MakeDescribedVm();
    GetParam().tell(vm);
    const absl::Status status = Assemble(std::move(vm)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), GetParam().reason);
    EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().complaint));
  }
  EXPECT_EQ(CountOpenFds(), before);
}

constexpr char kViolation[] = "AGENT_PROTOCOL_VIOLATION";

const Lie kLies[] = {
    {"AnotherInode",
     [](auto& vm) {
       ++vm.parts.slots[0].inode;
       vm.Update();
     },
     kViolation, "but its descriptor is inode"},
    {"AnotherDevice",
     [](auto& vm) {
       ++vm.parts.slots[0].device;
       vm.Update();
     },
     kViolation, "but its descriptor is inode"},
    {"MemoriesSwapped", [](auto& vm) { std::swap(vm.fds[1], vm.fds[2]); }, kViolation,
     "but its descriptor is inode"},
    {"BeyondTheFile",
     [](auto& vm) {
       vm.parts.slots[0].size += 4096;
       vm.Update();
     },
     kViolation, "not within the file"},
    {"OffsetBeyondTheFile",
     [](auto& vm) {
       vm.parts.slots[0].offset = UINT64_MAX - 4095;
       vm.Update();
     },
     kViolation, "not within the file"},
    {"OneMemoryTwice",
     [](auto& vm) {
       vm.fds[2] = *Duplicate(vm.fds[1].borrow());
       vm.parts.slots[1].inode = vm.parts.slots[0].inode;
       vm.Update();
     },
     kViolation, "two MEMORY descriptors of one inode"},
    {"AnotherDigest", [](auto& vm) { ++vm.parts.head.layout_digest; }, kViolation, "layout_digest"},
    {"VmIsNoVm", [](auto& vm) { vm.fds[0] = UniqueFd(eventfd(0, EFD_CLOEXEC)); }, kViolation,
     "should be a simulated VM"},
    {"MemoryIsAFile",
     [](auto& vm) { vm.fds[1] = UniqueFd(open("/etc/passwd", O_RDONLY | O_CLOEXEC)); }, kViolation,
     "should be a simulated guest_memfd"},
    {"MemoryIsADirectory", [](auto& vm) { vm.fds[1] = UniqueFd(open("/", O_RDONLY | O_CLOEXEC)); },
     kViolation, "is /"},
    {"ConfigIsNotSealed", [](auto& vm) { vm.fds[3] = MakeMemfd(); }, kViolation, "not sealed"},
    {"Overlap",
     [](auto& vm) {
       vm.parts.slots[1].gpa = 0x1000;
       vm.Update();
     },
     "LAYOUT_INVALID", ""},
    {"NotAligned",
     [](auto& vm) {
       vm.parts.slots[1].gpa += 1;
       vm.Update();
     },
     "LAYOUT_INVALID", ""},
    {"Empty",
     [](auto& vm) {
       vm.parts.slots[1].size = 0;
       vm.Update();
     },
     "LAYOUT_INVALID", ""},
    {"ThirdAddressSpace",
     [](auto& vm) {
       vm.parts.slots[1].address_space = 2;
       vm.Update();
     },
     "LAYOUT_INVALID", ""},
};

INSTANTIATE_TEST_SUITE_P(All, AssembleDescriptionLies, testing::ValuesIn(kLies),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(AssembleDescription, NeedsOneDescriptorForEachEntry) {
  DescribedVm vm = MakeDescribedVm();
  absl::StatusOr<WireDescription> wire =
      ParseDescription(vm.parts.Payload(), vm.fds.size(), DescriptionKind::kSource);
  ASSERT_TRUE(wire.ok());
  vm.fds.pop_back();
  EXPECT_EQ(ReasonOf(AssembleDescription(*wire, std::move(vm.fds), *NewSimFdKinds()).status()),
            kViolation);
}

TEST(DescribeForTarget, PassesTheVmOnlyWhereItIsMovedFrom) {
  absl::StatusOr<VmDescription> source = Assemble(MakeDescribedVm());
  ASSERT_TRUE(source.ok());
  const UniqueFd block = MakeMemfd();
  const auto roles = [&](bool with_vm) {
    absl::StatusOr<OutgoingDescription> out = DescribeForTarget(*source, with_vm, block.borrow());
    EXPECT_TRUE(out.ok()) << out.status();
    EXPECT_EQ(out->fds.size(), out->wire.fds.size());
    EXPECT_EQ(out->fds.back().raw(), block.borrow().raw());
    std::vector<rehome_fd_role> found;
    for (const WireFd& fd : out->wire.fds) found.push_back(fd.role);
    return found;
  };
  EXPECT_THAT(roles(true), testing::ElementsAre(REHOME_FD_VM, REHOME_FD_MEMORY, REHOME_FD_MEMORY,
                                                REHOME_FD_CONFIG, REHOME_FD_NAMED, REHOME_FD_NAMED,
                                                REHOME_FD_BLOCK));
  EXPECT_THAT(roles(false),
              testing::ElementsAre(REHOME_FD_MEMORY, REHOME_FD_MEMORY, REHOME_FD_CONFIG,
                                   REHOME_FD_NAMED, REHOME_FD_NAMED, REHOME_FD_BLOCK));
}

TEST(DescribeForTarget, SaysWhatTheSourceSaid) {
  DescribedVm sent = MakeDescribedVm();
  const auto slots = sent.parts.slots;
  const uint64_t digest = sent.parts.head.layout_digest;
  absl::StatusOr<VmDescription> source = Assemble(std::move(sent));
  ASSERT_TRUE(source.ok());
  const UniqueFd block = MakeMemfd();
  absl::StatusOr<OutgoingDescription> out = DescribeForTarget(*source, false, block.borrow());
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->wire.vm_id, "vm-1");
  EXPECT_EQ(out->wire.layout_digest, digest);
  EXPECT_EQ(out->wire.state_capacity, 1u << 20);
  ASSERT_EQ(out->wire.slots.size(), slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    EXPECT_EQ(memcmp(&out->wire.slots[i], &slots[i], sizeof(slots[i])), 0) << i;
  }
}

}  // namespace
}  // namespace rehome
