// SPDX-License-Identifier: Apache-2.0
#include "daemon/fd_kinds.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "daemon/testing/failing_call.h"
#include "daemon/testing/wire_messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using testing::HasSubstr;
using testing_support::MakeSealedMemfd;

UniqueFd Memfd(const char* name, unsigned flags = 0) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | flags));
  EXPECT_TRUE(fd.valid());
  return fd;
}

// A file that has been deleted: its name in /proc ends like a memfd's.
UniqueFd DeletedFile(const std::string& name) {
  const std::string path = testing::TempDir() + "/" + name;
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd.valid());
  unlink(path.c_str());
  return fd;
}

// Descriptors that are neither a VM nor memory on any kernel.
std::vector<std::pair<std::string, UniqueFd>> Impostors() {
  std::vector<std::pair<std::string, UniqueFd>> impostors;
  const auto add = [&](const char* name, UniqueFd fd) {
    EXPECT_TRUE(fd.valid()) << name;
    impostors.emplace_back(name, std::move(fd));
  };
  add("a device", UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)));
  add("a directory", UniqueFd(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  add("an O_PATH descriptor", UniqueFd(open("/etc/passwd", O_PATH | O_CLOEXEC)));
  add("a file of /proc", UniqueFd(open("/proc/self/mem", O_RDWR | O_CLOEXEC)));
  add("a deleted file", DeletedFile("memfd:ram"));
  add("a deleted file called like guest_memfd", DeletedFile("[kvm-gmem]"));
  add("an eventfd", UniqueFd(eventfd(0, EFD_CLOEXEC)));
  add("an epoll", UniqueFd(epoll_create1(EPOLL_CLOEXEC)));
  absl::StatusOr<SocketPair> sockets = CreateSocketPair();
  EXPECT_TRUE(sockets.ok());
  add("a socket", std::move(sockets->first));
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
  EXPECT_TRUE(pidfd.ok());
  add("a pidfd", *std::move(pidfd));
  return impostors;
}

void ExpectWrong(const absl::Status& status, const std::string& who) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << who;
  EXPECT_EQ(ReasonOf(status), "AGENT_PROTOCOL_VIOLATION") << who;
}

TEST(FdKinds, RefuseEveryImpostorOnBothKernels) {
  for (const auto& kinds : {NewKvmFdKinds(), NewSimFdKinds()}) {
    for (const auto& [who, fd] : Impostors()) {
      ExpectWrong(kinds->CheckVm(fd.borrow()), who);
      ExpectWrong(kinds->CheckMemory(fd.borrow()), who);
      ExpectWrong(kinds->CheckConfig(fd.borrow()), who);
    }
    ExpectWrong(kinds->CheckVm(BorrowedFd()), "no descriptor");
    ExpectWrong(kinds->CheckMemory(BorrowedFd()), "no descriptor");
  }
}

TEST(FdKinds, SayWhatTheDescriptorIsInstead) {
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_THAT(std::string(NewKvmFdKinds()->CheckVm(null.borrow()).message()),
              HasSubstr("should be a KVM VM is /dev/null"));
  const UniqueFd rude = Memfd("\x1b[2J");
  EXPECT_THAT(std::string(NewKvmFdKinds()->CheckVm(rude.borrow()).message()),
              HasSubstr("is /memfd:?[2J (deleted)"));
}

TEST(FdKinds, TakeMemfdsAsMemory) {
  const UniqueFd memory = Memfd("ram");
  EXPECT_TRUE(NewKvmFdKinds()->CheckMemory(memory.borrow()).ok());
  EXPECT_TRUE(NewSimFdKinds()->CheckMemory(memory.borrow()).ok());
  // No page of it is touched, so the host needs none.
  const UniqueFd huge = Memfd("huge", MFD_HUGETLB);
  EXPECT_TRUE(NewKvmFdKinds()->CheckMemory(huge.borrow()).ok());
}

TEST(FdKinds, AMemfdIsAVmOnTheSimulatedKernelOnly) {
  const UniqueFd vm = Memfd("vm");
  EXPECT_TRUE(NewSimFdKinds()->CheckVm(vm.borrow()).ok());
  ExpectWrong(NewKvmFdKinds()->CheckVm(vm.borrow()), "a memfd");
}

// That the daemon is short of memory is no fault of the agent's.
TEST(FdKinds, WhatCannotBeLookedAtIsNotCalledWrong) {
  const UniqueFd memory = Memfd("ram", MFD_ALLOW_SEALING);
  for (const long call : {SYS_readlink, SYS_fcntl, SYS_fstatfs}) {
    testing_support::RunWhileFailing(call, ENOMEM, [&] {
      for (const auto& kinds : {NewKvmFdKinds(), NewSimFdKinds()}) {
        EXPECT_EQ(ReasonOf(kinds->CheckMemory(memory.borrow())), "SYSCALL_FAILED") << call;
        EXPECT_EQ(ReasonOf(kinds->CheckConfig(memory.borrow())), "SYSCALL_FAILED") << call;
      }
    });
  }
}

TEST(FdKinds, ConfigIsSealedAndOfBoundedSize) {
  const auto kinds = NewKvmFdKinds();
  EXPECT_TRUE(kinds->CheckConfig(MakeSealedMemfd(1).borrow()).ok());
  EXPECT_TRUE(kinds->CheckConfig(MakeSealedMemfd(REHOME_MAX_CONFIG).borrow()).ok());
  ExpectWrong(kinds->CheckConfig(MakeSealedMemfd(0).borrow()), "empty");
  ExpectWrong(kinds->CheckConfig(MakeSealedMemfd(REHOME_MAX_CONFIG + 1).borrow()), "too big");
  for (int missing : {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE}) {
    const UniqueFd config = Memfd("config", MFD_ALLOW_SEALING);
    ASSERT_EQ(ftruncate(config.borrow().raw(), 10), 0);
    const int seals = (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) & ~missing;
    ASSERT_EQ(fcntl(config.borrow().raw(), F_ADD_SEALS, seals), 0);
    const absl::Status status = kinds->CheckConfig(config.borrow());
    ExpectWrong(status, "not sealed");
    EXPECT_THAT(std::string(status.message()), HasSubstr("not sealed"));
  }
}

}  // namespace
}  // namespace rehome
