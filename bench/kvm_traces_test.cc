// SPDX-License-Identifier: Apache-2.0
#include "bench/kvm_traces.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace rehome::bench {
namespace {

TEST(KvmTracesTest, FilesOfKvmAreTold) {
  for (const char* link : {"/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0",
                           "anon_inode:[kvm-gmem]", "anon_inode:[kvm-gmem] (deleted)"}) {
    EXPECT_TRUE(IsKvmFile(link)) << link;
  }
  for (const char* link : {"", "/dev/kvmfr0", "anon_inode:[eventfd]", "/memfd:anon_inode:kvm-vm"}) {
    EXPECT_FALSE(IsKvmFile(link)) << link;
  }
}

TEST(KvmTracesTest, OnlyATaskThatSleepsInAnotherCallIsSurelyOutside) {
  EXPECT_FALSE(MayBeInKvmRun("34 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f11\n"));  // pause
  EXPECT_TRUE(MayBeInKvmRun("16 0x5 0xae80 0x0 0x0 0x0 0x0 0x7ffd 0x7f11\n"));
  EXPECT_TRUE(MayBeInKvmRun("running\n"));
  EXPECT_TRUE(MayBeInKvmRun("-1 0x7ffd 0x7f11\n"));
  EXPECT_TRUE(MayBeInKvmRun(""));
}

TEST(KvmTracesTest, AProcessWithoutAVmHasNone) {
  const auto traces = FindKvmTraces(getpid());
  ASSERT_TRUE(traces.ok()) << traces.status();
  EXPECT_TRUE(traces->descriptors.empty());
  EXPECT_TRUE(traces->vcpu_mappings.empty());
  EXPECT_TRUE(traces->memory_mappings.empty());
}

TEST(KvmTracesTest, ATaskThatRunsMayBeInside) {
  EXPECT_TRUE(NoTaskInKvmRun(getpid())) << "the only one reads a file";
  std::atomic<bool> stop = false;
  std::thread busy([&stop] {
    while (!stop) {
    }
  });
  EXPECT_FALSE(NoTaskInKvmRun(getpid()));
  stop = true;
  busy.join();
  EXPECT_FALSE(NoTaskInKvmRun(0)) << "there is none to look at";
}

}  // namespace
}  // namespace rehome::bench
