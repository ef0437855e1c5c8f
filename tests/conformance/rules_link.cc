// SPDX-License-Identifier: Apache-2.0
//
// KVM_LINK_GUEST_MEMFD: what is refused, and what a link is.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

// A VM with memory, and a second VM.
struct Pair {
  explicit Pair(Bench& bench)
      : owner(bench.CreateVm(VmType::kSwProtected)),
        other(bench.CreateVm(VmType::kSwProtected)),
        memory(bench.CreateMemory(owner.borrow(), kMemoryBytes)) {}
  LinkGuestMemfdArgs Arguments() const {
    return {.fd = static_cast<uint32_t>(memory.borrow().raw()), .flags = 0, .reserved = {}};
  }
  UniqueFd owner, other, memory;
};

void IsAnotherFileOfTheInode(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd link = bench.Link(pair.other.borrow(), pair.memory.borrow());
  ASSERT_TRUE(link.valid());
  EXPECT_NE(link.borrow().raw(), pair.memory.borrow().raw());
  EXPECT_EQ(Identify(link.borrow())->id, Identify(pair.memory.borrow())->id);
  EXPECT_EQ(Identify(link.borrow())->size_bytes, kMemoryBytes);
}

void BelongsToTheLinkingVm(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeUnboundTarget(bench, source.memory.borrow());
  constexpr uint64_t kFar = kMemoryGpa + 64 * kPage;
  const BorrowedFd link = target.memory.borrow();
  EXPECT_EQ(source.Bind(link, kMemorySlot + 1, kFar, kPage, 0), -EINVAL);
  EXPECT_EQ(target.Bind(source.memory.borrow(), kMemorySlot, kMemoryGpa, kMemoryBytes, 0), -EINVAL);
  EXPECT_EQ(target.Bind(Duplicate(link)->borrow(), kMemorySlot, kMemoryGpa, kMemoryBytes, 0), 0);
}

void IsCloseOnExec(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd link = bench.Link(pair.other.borrow(), pair.memory.borrow());
  EXPECT_EQ(fcntl(link.borrow().raw(), F_GETFD), FD_CLOEXEC);
}

void CapabilityTells(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd plain = bench.CreateVm(VmType::kDefault);
  EXPECT_EQ(bench.Call(pair.owner.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_LINK_GUEST_MEMFD), 1);
  EXPECT_EQ(bench.Call(plain.borrow(), KVM_CHECK_EXTENSION, KVM_CAP_LINK_GUEST_MEMFD), 0);
}

void NoArgumentIsEfault(Bench& bench) {
  const Pair pair(bench);
  EXPECT_EQ(bench.Call(pair.other.borrow(), LinkGuestMemfdRequest(LinkAbi{}.ioctl_number)),
            -EFAULT);
}

void FlagsAreEinval(Bench& bench) {
  const Pair pair(bench);
  LinkGuestMemfdArgs arguments = pair.Arguments();
  for (const uint64_t flags : {uint64_t{1}, uint64_t{1} << 63, ~uint64_t{0}}) {
    arguments.flags = flags;
    EXPECT_EQ(bench.TryLink(pair.other.borrow(), arguments), -EINVAL) << flags;
  }
}

void ReservedIsEinval(Bench& bench) {
  const Pair pair(bench);
  for (size_t word = 0; word < std::size(LinkGuestMemfdArgs{}.reserved); ++word) {
    LinkGuestMemfdArgs arguments = pair.Arguments();
    arguments.reserved[word] = 1;
    EXPECT_EQ(bench.TryLink(pair.other.borrow(), arguments), -EINVAL) << word;
  }
}

void NotOpenIsEinval(Bench& bench) {
  const Pair pair(bench);
  EXPECT_EQ(bench.TryLink(pair.other.borrow(), BorrowedFd(1 << 20)), -EINVAL);
}

void TooLargeIsEinval(Bench& bench) {
  const Pair pair(bench);
  LinkGuestMemfdArgs arguments = pair.Arguments();
  arguments.fd |= uint64_t{1} << 32;
  EXPECT_EQ(bench.TryLink(pair.other.borrow(), arguments), -EINVAL);
}

void AnotherFileIsEinval(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd memfd(memfd_create("not guest_memfd", MFD_CLOEXEC));
  for (const BorrowedFd fd : {memfd.borrow(), pair.owner.borrow(), bench.kvm()}) {
    EXPECT_EQ(bench.TryLink(pair.other.borrow(), fd), -EINVAL);
  }
}

void OwnMemoryIsEinval(Bench& bench) {
  const Pair pair(bench);
  EXPECT_EQ(bench.TryLink(pair.owner.borrow(), pair.memory.borrow()), -EINVAL);
  const UniqueFd link = bench.Link(pair.other.borrow(), pair.memory.borrow());
  EXPECT_EQ(bench.TryLink(pair.other.borrow(), link.borrow()), -EINVAL) << "a link is its VM's";
}

void TypeWithoutMoveIsEinval(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd plain = bench.CreateVm(VmType::kDefault);
  EXPECT_EQ(bench.TryLink(plain.borrow(), pair.memory.borrow()), -EINVAL) << "into";
  const UniqueFd memory(static_cast<int>(bench.TryCreateMemory(plain.borrow(), kPage)));
  if (!memory.valid()) return;
  EXPECT_EQ(bench.TryLink(pair.other.borrow(), memory.borrow()), -EINVAL) << "from";
}

void TwiceIsTwoFiles(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd one = bench.Link(pair.other.borrow(), pair.memory.borrow());
  const UniqueFd two = bench.Link(pair.other.borrow(), pair.memory.borrow());
  EXPECT_NE(one.borrow().raw(), two.borrow().raw());
  EXPECT_EQ(Identify(one.borrow())->id, Identify(two.borrow())->id);
}

void OfALink(Bench& bench) {
  const Pair pair(bench);
  const UniqueFd link = bench.Link(pair.other.borrow(), pair.memory.borrow());
  const UniqueFd third = bench.CreateVm(VmType::kSwProtected);
  const UniqueFd link_of_link = bench.Link(third.borrow(), link.borrow());
  EXPECT_EQ(Identify(link_of_link.borrow())->id, Identify(pair.memory.borrow())->id);
  EXPECT_TRUE(bench.Link(pair.owner.borrow(), link.borrow()).valid())
      << "also back into the VM whose memory it is: it is another VM's file";
}

void FdLimitIsEmfile(Bench& bench) {
  const Pair pair(bench);
  {
    const testing::NoMoreFds limit;
    EXPECT_EQ(bench.TryLink(pair.owner.borrow(), pair.memory.borrow()), -EINVAL)
        << "what is wrong with the arguments comes first";
    EXPECT_EQ(bench.TryLink(pair.other.borrow(), pair.memory.borrow()), -EMFILE);
  }
  EXPECT_TRUE(bench.Link(pair.other.borrow(), pair.memory.borrow()).valid());
}

void OfADeadVm(Bench& bench) {
  Guest source = MakeSource(bench);
  Guest target = MakeTarget(bench, source.memory.borrow());
  ASSERT_EQ(bench.Move(target.vm.borrow(), source.vm.borrow()), 0);
  const UniqueFd third = bench.CreateVm(VmType::kSwProtected);
  EXPECT_TRUE(bench.Link(third.borrow(), source.memory.borrow()).valid());
}

void OfAVmWithoutProcess(Bench& bench) {
  testing::Child owner([&](BorrowedFd socket) {
    const UniqueFd vm = bench.CreateVm(VmType::kSwProtected);
    const UniqueFd memory = bench.CreateMemory(vm.borrow(), kMemoryBytes);
    return testing::Send(socket, {memory.borrow()}) ? 0 : 1;
  });
  std::vector<UniqueFd> received;
  ASSERT_TRUE(testing::Receive(owner.socket(), &received));
  EXPECT_EQ(owner.Wait(), 0);
  Guest target = MakeUnboundTarget(bench, received.at(0).borrow());
  EXPECT_EQ(target.Bind(), 0);
}

const Rule kRules[] = {
    {"link.same-inode",
     "RFC v2 04/13; guest_memfd_test.c test_link",
     "LINK returns another descriptor, with the inode and the size of the source's",
     {Feature::kLink},
     IsAnotherFileOfTheInode},
    {"link.belongs-to-vm",
     "seed (1:1, gmem->kvm immutable); RFC v2 04/13",
     "a link can be bound to the VM that made it and to no other",
     {Feature::kLink},
     BelongsToTheLinkingVm},
    {"link.close-on-exec",
     "kernel/; not set in the RFCs",
     "a link is close-on-exec",
     {Feature::kLink},
     IsCloseOnExec},
    {"link.capability",
     "kernel/; the RFCs have none",
     "capability 10001 is 1 on a VM that can link, and 0 on one of type default",
     {Feature::kLink},
     CapabilityTells},
    {"link.efault", "RFC v2 04/13", "no argument is EFAULT", {Feature::kLink}, NoArgumentIsEfault},
    {"link.flags-einval",
     "RFC v2 04/13; guest_memfd_test.c test_link",
     "flags are EINVAL",
     {Feature::kLink},
     FlagsAreEinval},
    {"link.reserved-einval",
     "kernel/; the RFCs do not look",
     "reserved fields that are not 0 are EINVAL",
     {Feature::kLink},
     ReservedIsEinval},
    {"link.not-open-einval",
     "RFC v2 04/13; guest_memfd_test.c test_link",
     "a descriptor that is not open is EINVAL, not EBADF",
     {Feature::kLink},
     NotOpenIsEinval},
    {"link.fd-too-large-einval",
     "kernel/; the RFCs ignore the upper half",
     "a descriptor beyond INT_MAX is EINVAL",
     {Feature::kLink},
     TooLargeIsEinval},
    {"link.non-memfd-einval",
     "RFC v2 04/13; guest_memfd_test.c test_link",
     "a memfd, a VM or /dev/kvm is EINVAL",
     {Feature::kLink},
     AnotherFileIsEinval},
    {"link.same-vm-einval",
     "RFC v2 04/13; guest_memfd_test.c test_link",
     "a file of the same VM is EINVAL, be it a link or not",
     {Feature::kLink},
     OwnMemoryIsEinval},
    {"link.immovable-type-einval",
     "kernel/; the RFCs allow every type",
     "a VM whose type has no MOVE can neither link nor be linked from",
     {Feature::kLink},
     TypeWithoutMoveIsEinval},
    {"link.twice",
     "RFC v2 04/13 (inferred)",
     "linking twice into one VM gives two files",
     {Feature::kLink},
     TwiceIsTwoFiles},
    {"link.of-link",
     "RFC v2 04/13 (inferred)",
     "a link can be linked by a third VM",
     {Feature::kLink},
     OfALink},
    {"link.emfile",
     "RFC v2 04/13",
     "without a free descriptor LINK is EMFILE, as its last check",
     {Feature::kLink},
     FdLimitIsEmfile},
    {"link.of-dead-vm", "RFC v1 02/11 review (A. Tng)",
     "the file of a dead VM can be linked, and so rescued", kLinkAndMove, OfADeadVm},
    {"link.of-orphan",
     "RFC v1 02/11 review (A. Tng)",
     "a file whose VM's process is gone can be linked",
     {Feature::kLink},
     OfAVmWithoutProcess},
};

}  // namespace

std::span<const Rule> LinkRules() { return kRules; }

}  // namespace rehome::conformance
