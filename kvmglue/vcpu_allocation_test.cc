// SPDX-License-Identifier: Apache-2.0
//
// Saving and restoring allocate nothing: in the blackout malloc() may have to wait for a lock, or
// for memory. The counting allocator below is the whole binary's.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "kvmglue/vcpu_test_bench.h"
#include "kvmglue/vm_state.h"

namespace {
std::atomic<long> g_allocations{0};
}  // namespace

void* operator new(size_t size) {
  ++g_allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace rehome {
namespace {

using testing::Bench;

template <typename Function>
long AllocationsOf(Function function) {
  const long before = g_allocations;
  function();
  return g_allocations - before;
}

TEST(VcpuAllocations, TheCounterCounts) {
  EXPECT_EQ(AllocationsOf([] { ::operator delete(::operator new(1)); }), 1);
}

TEST(VcpuAllocations, NoneInSaveAndRestore) {
  for (const bool sync_regs : {false, true}) {
    Bench bench(sync_regs);
    bench.SetCpuid();
    bench.kernel.calls.reserve(1000);  // the recording's own
    static VcpuState state;
    bool ok = false;
    EXPECT_EQ(AllocationsOf([&] { ok = bench.vcpu->SaveState(state).ok(); }), 0);
    EXPECT_TRUE(ok);
    EXPECT_EQ(AllocationsOf([&] { ok = bench.vcpu->RestoreState(state).ok(); }), 0);
    EXPECT_TRUE(ok);
    static VmState devices;
    EXPECT_EQ(AllocationsOf([&] { ok = bench.vm->SaveState(devices).ok(); }), 0);
    EXPECT_TRUE(ok);
    EXPECT_EQ(AllocationsOf([&] { ok = bench.vm->RestoreState(devices).ok(); }), 0);
    EXPECT_TRUE(ok);
  }
}

}  // namespace
}  // namespace rehome
