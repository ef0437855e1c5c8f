// SPDX-License-Identifier: Apache-2.0
//
// The seam itself, on files that every machine has; vm_kvm_test.cc has the rest.
#include "kvmglue/os_kvm_syscalls.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kvmglue/kvm_abi.h"

namespace rehome {
namespace {

TEST(OsKvmSyscalls, IoctlCapturesErrno) {
  const std::unique_ptr<KvmSyscalls> kernel = OpenRealKvm();
  const UniqueFd file(memfd_create("no KVM", MFD_CLOEXEC));
  errno = 0;
  const SysResult result = kernel->Ioctl(file.borrow(), KVM_GET_API_VERSION, nullptr);
  EXPECT_FALSE(result.ok());
  EXPECT_EQ(result.error, ENOTTY);
  EXPECT_EQ(kernel->Ioctl(BorrowedFd(), KVM_GET_API_VERSION, nullptr).error, EBADF);
}

TEST(OsKvmSyscalls, MappingsAreSharedAndWritable) {
  const std::unique_ptr<KvmSyscalls> kernel = OpenRealKvm();
  const UniqueFd file(memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.borrow().raw(), 8192), 0);
  void* address = nullptr;
  ASSERT_TRUE(kernel->MapShared(file.borrow(), 4096, 4096, &address).ok());
  std::memcpy(address, "written", 7);
  char read[7] = {};
  EXPECT_EQ(pread(file.borrow().raw(), read, sizeof(read), 4096), 7);
  EXPECT_EQ(std::memcmp(read, "written", 7), 0);
  munmap(address, 4096);
}

TEST(OsKvmSyscalls, AFailedMappingLeavesTheAddressAlone) {
  const std::unique_ptr<KvmSyscalls> kernel = OpenRealKvm();
  int marker = 0;
  void* address = &marker;
  EXPECT_EQ(kernel->MapShared(BorrowedFd(), 4096, 0, &address).error, EBADF);
  EXPECT_EQ(address, &marker);
}

TEST(OsKvmSyscalls, IsNamedForReports) { EXPECT_STREQ(OpenRealKvm()->Name(), "kvm"); }

}  // namespace
}  // namespace rehome
