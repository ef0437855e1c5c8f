// SPDX-License-Identifier: Apache-2.0
//
// A guest_memfd as a file: creating it, and what can be done to its descriptor.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "tests/conformance/rule.h"

namespace rehome::conformance {
namespace {

constexpr uint64_t kUnknownFlag = 1ull << 40;

// A VM, and a guest_memfd of it.
struct File {
  explicit File(Bench& bench, uint64_t flags = 0)
      : vm(bench.CreateVm(bench.memory_type())),
        memory(bench.CreateMemory(vm.borrow(), kMemoryBytes, flags)) {}
  int raw() const { return memory.borrow().raw(); }
  UniqueFd vm, memory;
};

int Fallocate(const File& file, int mode, off_t offset, off_t bytes) {
  return fallocate(file.raw(), mode, offset, bytes) == 0 ? 0 : errno;
}

void BadSizeIsEinval(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  EXPECT_EQ(bench.TryCreateMemory(vm.borrow(), 0), -EINVAL);
  EXPECT_EQ(bench.TryCreateMemory(vm.borrow(), kPage + 1), -EINVAL);
  EXPECT_EQ(bench.TryCreateMemory(vm.borrow(), ~0ull << 12), -EINVAL) << "negative as loff_t";
}

void UnknownFlagIsEinval(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  EXPECT_EQ(bench.TryCreateMemory(vm.borrow(), kPage, kUnknownFlag), -EINVAL);
}

void NoArgumentIsEfault(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(bench.memory_type());
  EXPECT_EQ(bench.Call(vm.borrow(), KVM_CREATE_GUEST_MEMFD), -EFAULT);
}

void EachHasItsInode(Bench& bench) {
  const File file(bench);
  const UniqueFd other = bench.CreateMemory(file.vm.borrow(), kPage);
  const FileIdentity one = Identify(file.memory.borrow()).value();
  EXPECT_NE(one.id, Identify(other.borrow())->id);
  EXPECT_EQ(one.id, Identify(Duplicate(file.memory.borrow())->borrow())->id);
  EXPECT_EQ(one.size_bytes, kMemoryBytes);
}

void IsNotCloseOnExec(Bench& bench) {
  EXPECT_EQ(fcntl(File(bench).raw(), F_GETFD) & FD_CLOEXEC, 0);
}

void SizeIsFixed(Bench& bench) {
  const File file(bench);
  EXPECT_NE(ftruncate(file.raw(), kPage), 0);
  EXPECT_NE(ftruncate(file.raw(), 2 * kMemoryBytes), 0);
  EXPECT_EQ(Identify(file.memory.borrow())->size_bytes, kMemoryBytes);
}

void CannotBeReopened(Bench& bench) {
  const File file(bench);
  const std::string path = "/proc/self/fd/" + std::to_string(file.raw());
  const UniqueFd reopened(open(path.c_str(), O_RDWR | O_CLOEXEC));
  const int error = errno;
  ASSERT_FALSE(reopened.valid()) << "reopened";
  EXPECT_EQ(error, ENXIO);
}

void CannotBeRead(Bench& bench) {
  const File file(bench);
  char byte = 0;
  EXPECT_EQ(read(file.raw(), &byte, 1), -1);
  EXPECT_EQ(write(file.raw(), &byte, 1), -1);
}

void FallocateNeedsKeepSize(Bench& bench) {
  const File file(bench);
  EXPECT_EQ(Fallocate(file, 0, 0, kPage), EOPNOTSUPP);
  EXPECT_EQ(Fallocate(file, FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
  EXPECT_EQ(Fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, kPage), 0);
}

void FallocateOfHalfAPageIsEinval(Bench& bench) {
  const File file(bench);
  EXPECT_EQ(Fallocate(file, FALLOC_FL_KEEP_SIZE, 0, kPage / 2), EINVAL);
  EXPECT_EQ(Fallocate(file, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, kPage / 2, kPage), EINVAL);
}

void FallocateBeyondTheEndIsEinval(Bench& bench) {
  EXPECT_EQ(Fallocate(File(bench), FALLOC_FL_KEEP_SIZE, kMemoryBytes, kPage), EINVAL);
}

void CannotBeMappedWithoutTheFlag(Bench& bench) {
  const File file(bench);
  void* address = nullptr;
  EXPECT_EQ(bench.kernel().MapShared(file.memory.borrow(), kPage, 0, &address).error, ENODEV);
}

void CannotBeMappedPrivately(Bench& bench) {
  const File file(bench, GUEST_MEMFD_FLAG_MMAP);
  void* address = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.raw(), 0);
  const int error = errno;
  ASSERT_EQ(address, MAP_FAILED) << "mapped";
  EXPECT_EQ(error, EINVAL);
}

void MappingIsTheGuestsMemory(Bench& bench) {
  Guest guest(bench, VmType::kDefault);
  guest.memory = bench.CreateMemory(guest.vm.borrow(), kMemoryBytes,
                                    GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
  void* address = nullptr;
  ASSERT_TRUE(bench.kernel().MapShared(guest.memory.borrow(), kMemoryBytes, 0, &address).ok());
  guest.hva = reinterpret_cast<uint64_t>(address);
  ASSERT_EQ(guest.Bind(), 0);
  EXPECT_TRUE(guest.Store(kMemoryGpa + kPage, kSecret).Halted());
  const auto* words = static_cast<const volatile uint32_t*>(address);
  EXPECT_EQ(words[kPage / sizeof(uint32_t)], kSecret);
  EXPECT_EQ(PunchHole(guest.memory.borrow(), kPage, kPage), 0);
  EXPECT_EQ(words[kPage / sizeof(uint32_t)], 0u) << "after a hole was punched";
  EXPECT_EQ(guest.Load(kMemoryGpa + kPage).value, 0u);
  munmap(address, kMemoryBytes);
}

void TouchingAPrivateMappingIsSigbus(Bench& bench) {
  const UniqueFd vm = bench.CreateVm(VmType::kDefault);
  const UniqueFd memory = bench.CreateMemory(vm.borrow(), kPage, GUEST_MEMFD_FLAG_MMAP);
  void* address = nullptr;
  ASSERT_TRUE(bench.kernel().MapShared(memory.borrow(), kPage, 0, &address).ok());
  testing::Child toucher([&](BorrowedFd) {
    signal(SIGBUS, SIG_DFL);  // not a sanitizer's
    *static_cast<volatile uint8_t*>(address) = 1;
    return 0;
  });
  EXPECT_EQ(toucher.Wait(), 128 + SIGBUS);
  munmap(address, kPage);
}

const Rule kRules[] = {
    {"memfd.bad-size-einval",
     "D guest_memfd.c; probed on 6.18.44",
     "a size of 0, of parts of a page, or negative is EINVAL",
     {},
     BadSizeIsEinval},
    {"memfd.unknown-flag-einval",
     "guest_memfd_test.c; probed on 6.18.44",
     "an unknown flag is EINVAL",
     {},
     UnknownFlagIsEinval},
    {"memfd.efault", "D kvm_main.c", "no argument is EFAULT", {}, NoArgumentIsEfault},
    {"memfd.own-inode",
     "guest_memfd_test.c test_create_guest_memfd_multiple; probed on 6.18.44",
     "each has an inode of its own, which duplicates share, and st_size is the size",
     {},
     EachHasItsInode},
    {"memfd.not-close-on-exec",
     "D guest_memfd.c get_unused_fd_flags(0); probed on 6.18.44",
     "a new one is not close-on-exec",
     {},
     IsNotCloseOnExec},
    {"memfd.size-fixed",
     "guest_memfd_test.c; probed on 6.18.44",
     "ftruncate(2) is refused",
     {},
     SizeIsFixed},
    {"memfd.reopen-enxio",
     "probed on 6.18.44",
     "open(2) of /proc/self/fd/N is ENXIO: a descriptor can only be passed",
     {},
     CannotBeReopened},
    {"memfd.no-read-write",
     "guest_memfd_test.c test_file_read_write",
     "read(2) and write(2) are refused",
     {},
     CannotBeRead},
    {"memfd.fallocate-keep-size",
     "guest_memfd_test.c test_fallocate; probed on 6.18.44",
     "fallocate(2) without KEEP_SIZE is EOPNOTSUPP",
     {},
     FallocateNeedsKeepSize},
    {"memfd.fallocate-aligned",
     "guest_memfd_test.c test_invalid_punch_hole; probed on 6.18.44",
     "fallocate(2) of parts of a page is EINVAL",
     {},
     FallocateOfHalfAPageIsEinval},
    {"memfd.fallocate-within",
     "guest_memfd_test.c test_fallocate; probed on 6.18.44",
     "fallocate(2) beyond the end is EINVAL",
     {},
     FallocateBeyondTheEndIsEinval},
    {"memfd.mmap-enodev",
     "guest_memfd_test.c test_mmap_not_supported; probed on 6.18.44",
     "mmap(2) without GUEST_MEMFD_FLAG_MMAP is ENODEV",
     {},
     CannotBeMappedWithoutTheFlag},
    {"memfd.mmap-private-einval",
     "guest_memfd_test.c; probed on 6.18.44",
     "MAP_PRIVATE is EINVAL",
     {Feature::kMappableMemory},
     CannotBeMappedPrivately},
    {"memfd.mmap-is-guest-memory",
     "guest_memfd_test.c test_guest_memfd_guest",
     "a shared mapping is what the guest sees, also after a hole was punched",
     {Feature::kMappableMemory},
     MappingIsTheGuestsMemory},
    {"memfd.mmap-sigbus",
     "T guest_memfd.c kvm_gmem_fault_user_mapping",
     "touching a mapping of private memory is SIGBUS",
     {Feature::kMappableMemory},
     TouchingAPrivateMappingIsSigbus},
};

}  // namespace

std::span<const Rule> MemoryFileRules() { return kRules; }

}  // namespace rehome::conformance
