// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/local_vm.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <string>
#include <thread>

#include "kvmglue/sim/file_tag.h"
#include "kvmglue/sim/test_kit.h"

namespace rehome::sim {
namespace {

struct OpenVm {
  UniqueFd fd;
  std::shared_ptr<LocalVm> vm;
};

OpenVm MakeVm() {
  OpenVm made;
  VmMapping mapping;
  EXPECT_TRUE(VmMapping::Create(VmType::kSwProtected, mapping, made.fd).ok());
  made.vm = std::make_shared<LocalVm>(std::move(mapping));
  return made;
}

// Mappings of this process whose line in /proc/self/maps contains `text`.
int MappingsOf(const std::string& text) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find(text) != std::string::npos ? 1 : 0;
  }
  return count;
}

// ---- VmMapping

TEST(VmMappingTest, SecondMappingSeesTheSameObject) {
  const OpenVm made = MakeVm();
  VmMapping again;
  ASSERT_TRUE(VmMapping::Open(made.fd.borrow(), again).ok());
  EXPECT_NE(&again.object(), &made.vm->object());
  EXPECT_EQ(again.object().id, made.vm->object().id);
  made.vm->object().vcpu_count = 3;
  EXPECT_EQ(again.object().vcpu_count, 3u);
}

TEST(VmMappingTest, OnlyAVmObjectCanBeOpened) {
  VmMapping mapping;
  const UniqueFd small(static_cast<int>(CreateSealedMemfd("kvm-vm", 4096).value));
  EXPECT_EQ(VmMapping::Open(small.borrow(), mapping).error, EINVAL);
  const UniqueFd empty(static_cast<int>(CreateSealedMemfd("kvm-vm", kVmFileBytes).value));
  VmMapping other;
  EXPECT_EQ(VmMapping::Open(empty.borrow(), other).error, EINVAL);
}

TEST(VmMappingTest, KnowsWhetherItsFilesAreOpenAnywhere) {
  OpenVm made = MakeVm();
  EXPECT_TRUE(made.vm->mapping().IsOpenAnywhere());
  Child holder([](BorrowedFd socket) { return Receive(socket) ? 0 : 1; });
  made.fd.Reset();
  EXPECT_TRUE(made.vm->mapping().IsOpenAnywhere()) << "in the child";
  holder.Kill();
  holder.Wait();
  EXPECT_FALSE(made.vm->mapping().IsOpenAnywhere());
}

TEST(VmMappingTest, MoveThatWasCommittedIsFinishedByTheNextLock) {
  const OpenVm made = MakeVm();
  VmObject& vm = made.vm->object();
  const PrivateRange range = {0x1000, 0x2000};
  vm.incoming.moves_attributes = 1;
  vm.incoming.attributes.Assign({&range, 1});
  {
    const auto lock = LockVm(vm);
    EXPECT_TRUE(vm.attributes.Get().used().empty()) << "staged only";
  }
  vm.committed = 1;
  const auto lock = LockVm(vm);
  ASSERT_EQ(vm.attributes.Get().used().size(), 1u);
  EXPECT_EQ(vm.attributes.Get().used()[0].start, 0x1000u);
  EXPECT_EQ(vm.applied, 1u);
}

// ---- VmTable

TEST(VmTableTest, ClosedVmsAreDroppedAndOpenOnesStay) {
  VmTable table;
  OpenVm closed = MakeVm();
  OpenVm open = MakeVm();
  const uint64_t closed_id = closed.vm->object().id;
  const uint64_t open_id = open.vm->object().id;
  ASSERT_TRUE(table.Add(std::move(closed.vm)).ok());
  ASSERT_TRUE(table.Add(std::move(open.vm)).ok());
  closed.fd.Reset();
  table.DropClosed();
  EXPECT_EQ(table.Find(closed_id), nullptr);
  EXPECT_NE(table.Find(open_id), nullptr);
  EXPECT_EQ(table.size(), 1u);
}

TEST(VmTableTest, IsBounded) {
  VmTable table;
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < VmTable::kMaxVms; ++i) {
    OpenVm made = MakeVm();
    fds.push_back(std::move(made.fd));
    ASSERT_TRUE(table.Add(std::move(made.vm)).ok());
  }
  OpenVm one_more = MakeVm();
  EXPECT_EQ(table.Add(one_more.vm).error, ENOMEM);
  fds.pop_back();
  EXPECT_TRUE(table.Add(one_more.vm).ok()) << "room as soon as one is closed";
}

TEST(VmTableTest, VcpuFdAloneKeepsItsVm) {
  TestKernel kernel;
  UniqueFd vm = kernel.CreateVm(VmType::kDefault);
  const UniqueFd vcpu = kernel.CreateVcpu(vm.borrow());
  vm.Reset();
  const UniqueFd another = kernel.CreateVm(VmType::kDefault);
  EXPECT_EQ(kernel.Run(vcpu.borrow(), Program::kHalt).result, 0);
}

// ---- views

TEST(LocalVmTest, UpdateWaitsUntilNobodyUsesTheOldView) {
  const OpenVm made = MakeVm();
  std::shared_ptr<const MemoryView> held = made.vm->view();
  std::atomic<bool> updated = false;
  std::thread updater([&] {
    const std::lock_guard<RobustMutex> guard(made.vm->object().memory_lock);
    made.vm->UpdateView();
    updated = true;
  });
  // The new view is there at once; only the return of UpdateView() waits.
  ASSERT_TRUE(Eventually([&] { return made.vm->view()->version > held->version; }));
  EXPECT_FALSE(updated);
  held.reset();
  updater.join();
  EXPECT_TRUE(updated);
}

TEST(LocalVmTest, ClosedGuestMemfdIsUnboundAtTheNextRun) {
  TestKernel kernel;
  Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  const BorrowedFd vcpu = guest.vcpus[0].borrow();
  EXPECT_EQ(kernel.Run(vcpu, Program::kLoad, kGuestGpa).result, 0);
  UniqueFd copy(dup(guest.memory.borrow().raw()));
  guest.memory.Reset();
  EXPECT_EQ(kernel.Run(vcpu, Program::kLoad, kGuestGpa).result, 0) << "a copy is open";
  copy.Reset();
  const RunResult run = kernel.Run(vcpu, Program::kLoad, kGuestGpa);
  EXPECT_EQ(run.result, -EFAULT);
  EXPECT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_MEMORY_FAULT));
}

TEST(LocalVmTest, DeletedSlotsMappingIsDropped) {
  TestKernel kernel;
  const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
  const int before = MappingsOf("memfd:kvm-gmem");
  ASSERT_EQ(kernel.TrySetRegion(guest.vm.borrow(), {.slot = 0}), 0);
  EXPECT_EQ(MappingsOf("memfd:kvm-gmem"), before - 1);
}

TEST(LocalVmTest, KernelDropsItsMappingsWhenDestroyed) {
  const int before = MappingsOf("memfd:kvm-");
  {
    TestKernel kernel;
    const Guest guest = MakeGuest(kernel, VmType::kSwProtected);
    EXPECT_GT(MappingsOf("memfd:kvm-"), before);
  }
  EXPECT_EQ(MappingsOf("memfd:kvm-"), before);
}

}  // namespace
}  // namespace rehome::sim
