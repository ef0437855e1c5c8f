// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/address_space.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string_view>
#include <thread>

#include "kvmglue/fd.h"
#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

constexpr std::string_view kPrintMode = "--print-address-space";

// What a forked child is once it executes this program again; `differs` if neither it nor the child
// before was `before`.
AddressSpaceId OfAnExecutedChild(const AddressSpaceId& before, bool& differs) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    // What the child is before execve(2), then what it is after.
    const AddressSpaceId forked = CurrentAddressSpace();
    if (write(ends[1], &forked, sizeof(forked)) < 0) _exit(1);
    dup2(ends[1], STDOUT_FILENO);
    execl("/proc/self/exe", "test", kPrintMode.data(), nullptr);
    _exit(1);
  }
  const UniqueFd read_end(ends[0]);
  UniqueFd(ends[1]).Reset();
  AddressSpaceId ids[2] = {};
  EXPECT_EQ(read(read_end.borrow().raw(), &ids[0], sizeof(ids[0])), long{sizeof(ids[0])});
  EXPECT_EQ(read(read_end.borrow().raw(), &ids[1], sizeof(ids[1])), long{sizeof(ids[1])});
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
  differs = ids[0] != before && ids[1] != before;
  EXPECT_NE(ids[0], ids[1]) << "the same process before and after execve";
  return ids[1];
}

TEST(AddressSpaceTest, IsTheSameInEveryThread) {
  const AddressSpaceId here = CurrentAddressSpace();
  AddressSpaceId there = {};
  std::thread([&] { there = CurrentAddressSpace(); }).join();
  EXPECT_EQ(here, there);
  EXPECT_EQ(here, CurrentAddressSpace());
}

TEST(AddressSpaceTest, DiffersInAForkedChild) {
  const AddressSpaceId parent = CurrentAddressSpace();
  Child child([&](BorrowedFd) { return CurrentAddressSpace() == parent ? 1 : 0; });
  EXPECT_EQ(child.Wait(), 0);
}

TEST(AddressSpaceTest, IsGoneAfterExec) {
  const AddressSpaceId here = CurrentAddressSpace();
  bool differs = false;
  const AddressSpaceId first = OfAnExecutedChild(here, differs);
  EXPECT_TRUE(differs);
  EXPECT_NE(OfAnExecutedChild(here, differs), first) << "no two runs of a program are the same";
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace rehome::sim

int main(int argc, char** argv) {
  if (argc == 2 && argv[1] == rehome::sim::kPrintMode) {
    const rehome::sim::AddressSpaceId id = rehome::sim::CurrentAddressSpace();
    return write(STDOUT_FILENO, &id, sizeof(id)) == sizeof(id) ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
