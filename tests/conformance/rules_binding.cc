// SPDX-License-Identifier: Apache-2.0
//
// Memslots with guest_memfd: KVM_SET_USER_MEMORY_REGION2.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

constexpr uint32_t kOtherSlot = kMemorySlot + 1;
constexpr uint64_t kFarGpa = kMemoryGpa + 64 * kPage;

// Memory that is not bound yet.
Guest MakeUnbound(Bench& bench) {
  Guest guest(bench, bench.memory_type());
  guest.memory = bench.CreateMemory(guest.vm.borrow(), kMemoryBytes);
  return guest;
}

void BelongsToItsVm(Bench& bench) {
  const Guest owner = MakeUnbound(bench);
  Guest other(bench, bench.memory_type());
  EXPECT_EQ(other.Bind(owner.memory.borrow(), kMemorySlot, kMemoryGpa, kMemoryBytes, 0), -EINVAL);
}

void AnotherFileIsEinval(Bench& bench) {
  Guest guest(bench, bench.memory_type());
  const UniqueFd memfd(memfd_create("not guest_memfd", MFD_CLOEXEC));
  for (const BorrowedFd fd : {memfd.borrow(), guest.vm.borrow(), bench.kvm()}) {
    EXPECT_EQ(guest.Bind(fd, kMemorySlot, kMemoryGpa, kPage, 0), -EINVAL);
  }
}

void NoFileIsEbadf(Bench& bench) {
  Guest guest(bench, bench.memory_type());
  EXPECT_EQ(guest.Bind(BorrowedFd(1 << 20), kMemorySlot, kMemoryGpa, kPage, 0), -EBADF);
}

void BadOffsetIsEinval(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  EXPECT_EQ(guest.Bind(kMemoryGpa, kPage, 8), -EINVAL) << "not a page's";
  EXPECT_EQ(guest.Bind(kMemoryGpa, kMemoryBytes, kPage), -EINVAL) << "past the end";
  EXPECT_EQ(guest.Bind(kMemoryGpa, kPage, ~0ull << 12), -EINVAL) << "wraps";
}

void SamePagesTwiceIsEinval(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  ASSERT_EQ(guest.Bind(kMemoryGpa, 8 * kPage, 0), 0);
  EXPECT_EQ(guest.Bind(guest.memory.borrow(), kOtherSlot, kFarGpa, 2 * kPage, 7 * kPage), -EINVAL);
  EXPECT_EQ(guest.Bind(guest.memory.borrow(), kOtherSlot, kFarGpa, 2 * kPage, 8 * kPage), 0);
}

void OverlappingGpaIsEexist(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  ASSERT_EQ(guest.Bind(kMemoryGpa, 8 * kPage, 0), 0);
  const uint64_t inside = kMemoryGpa + 7 * kPage;
  EXPECT_EQ(guest.Bind(guest.memory.borrow(), kOtherSlot, inside, 2 * kPage, 8 * kPage), -EEXIST);
}

void DirtyLogAndReadOnlyAreEinval(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  for (const uint32_t flag : {KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY}) {
    EXPECT_EQ(bench.SetSlot(guest.vm.borrow(),
                            {.slot = kMemorySlot,
                             .flags = static_cast<uint32_t>(KVM_MEM_GUEST_MEMFD) | flag,
                             .guest_phys_addr = kMemoryGpa,
                             .memory_size = kPage,
                             .userspace_addr = guest.hva,
                             .guest_memfd = static_cast<uint32_t>(guest.memory.borrow().raw())}),
              -EINVAL)
        << flag;
  }
}

void TheOldCallIsEinval(Bench& bench) {
  const Guest guest = MakeUnbound(bench);
  const kvm_userspace_memory_region old = {.slot = kMemorySlot,
                                           .flags = KVM_MEM_GUEST_MEMFD,
                                           .guest_phys_addr = kMemoryGpa,
                                           .memory_size = kPage,
                                           .userspace_addr = guest.hva};
  EXPECT_EQ(bench.Call(guest.vm.borrow(), KVM_SET_USER_MEMORY_REGION, &old), -EINVAL);
}

void ABoundSlotIsImmutable(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  ASSERT_EQ(guest.Bind(), 0);
  EXPECT_EQ(guest.Bind(), -EINVAL) << "the same again";
  EXPECT_EQ(guest.Bind(kFarGpa), -EINVAL) << "moved";
  EXPECT_EQ(guest.Bind(kMemoryGpa, kPage), -EINVAL) << "shrunk";
  kvm_userspace_memory_region2 plain = {.slot = kMemorySlot,
                                        .guest_phys_addr = kMemoryGpa,
                                        .memory_size = kMemoryBytes,
                                        .userspace_addr = guest.hva};
  EXPECT_EQ(bench.SetSlot(guest.vm.borrow(), plain), -EINVAL) << "no longer guest_memfd's";
  plain.flags = KVM_MEM_LOG_DIRTY_PAGES;
  EXPECT_EQ(bench.SetSlot(guest.vm.borrow(), plain), -EINVAL) << "logging";
}

void DeletedSlotCanBeBoundAgain(Bench& bench) {
  Guest guest = MakeUnbound(bench);
  ASSERT_EQ(guest.Bind(), 0);
  EXPECT_EQ(bench.DeleteSlot(guest.vm.borrow(), kMemorySlot), 0);
  EXPECT_EQ(bench.DeleteSlot(guest.vm.borrow(), kMemorySlot), -EINVAL) << "it is gone";
  EXPECT_EQ(guest.Bind(kFarGpa), 0);
}

const Rule kRules[] = {
    {"bind.other-vm-einval",
     "D guest_memfd.c kvm_gmem_bind; probed on 6.18.44",
     "a guest_memfd of another VM is EINVAL: LINK is the only way",
     {},
     BelongsToItsVm},
    {"bind.non-memfd-einval",
     "set_memory_region_test.c; probed on 6.18.44",
     "a memfd, a VM or /dev/kvm is EINVAL",
     {},
     AnotherFileIsEinval},
    {"bind.not-open-ebadf",
     "probed on 6.18.44",
     "a descriptor that is not open is EBADF",
     {},
     NoFileIsEbadf},
    {"bind.bad-offset-einval",
     "set_memory_region_test.c; probed on 6.18.44",
     "an offset inside a page, past the end, or that wraps is EINVAL",
     {},
     BadOffsetIsEinval},
    {"bind.file-overlap-einval",
     "set_memory_region_test.c; probed on 6.18.44",
     "two slots may share a file, but no page of it",
     {},
     SamePagesTwiceIsEinval},
    {"bind.gpa-overlap-eexist",
     "set_memory_region_test.c; probed on 6.18.44",
     "guest addresses of another slot are EEXIST",
     {},
     OverlappingGpaIsEexist},
    {"bind.flags-einval",
     "set_memory_region_test.c; probed on 6.18.44",
     "dirty logging and read-only slots with guest_memfd are EINVAL",
     {},
     DirtyLogAndReadOnlyAreEinval},
    {"bind.old-call-einval",
     "set_memory_region_test.c; probed on 6.18.44",
     "KVM_SET_USER_MEMORY_REGION with KVM_MEM_GUEST_MEMFD is EINVAL",
     {},
     TheOldCallIsEinval},
    {"bind.immutable",
     "set_memory_region_test.c; probed on 6.18.44",
     "a slot with guest_memfd can only be deleted",
     {},
     ABoundSlotIsImmutable},
    {"bind.delete",
     "probed on 6.18.44",
     "deleting frees the pages for another slot; deleting what is not there is EINVAL",
     {},
     DeletedSlotCanBeBoundAgain},
};

}  // namespace

std::span<const Rule> BindingRules() { return kRules; }

}  // namespace rehome::conformance
