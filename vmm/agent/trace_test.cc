// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/trace.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kvmglue/fd.h"

namespace rehome {
namespace {

constexpr uint64_t kLong = REHOME_TRACE_THRESHOLD_NS;

struct Area {
  rehome_trace_header header;
  rehome_trace_call calls[REHOME_TRACE_CALLS];
};
static_assert(sizeof(Area) == REHOME_TRACE_SIZE);

class Trace : public ::testing::Test {
 protected:
  ~Trace() override { rehome_trace_free(trace_); }

  Area Read() const {
    Area area;
    EXPECT_EQ(pread(fd_.borrow().raw(), &area, sizeof(area), 0),
              static_cast<ssize_t>(sizeof(area)));
    return area;
  }
  void Open() { ASSERT_EQ(rehome_trace_open(trace_, fd_.borrow().raw()), 0); }
  void Record(uint32_t operation, uint32_t vcpu, uint64_t duration = kLong) {
    rehome_trace_record(trace_, operation, vcpu, 1000, 1000 + duration);
  }

  rehome_trace* const trace_ = rehome_trace_new();
  const UniqueFd fd_{rehome_trace_create_area()};
};

TEST_F(Trace, RecordsBetweenStartAndClose) {
  Record(REHOME_TRACE_KVM_GET_MSRS, 1);
  EXPECT_FALSE(rehome_trace_wanted(trace_));
  Open();
  EXPECT_TRUE(rehome_trace_wanted(trace_));
  Record(REHOME_TRACE_KVM_GET_MSRS, 2);
  EXPECT_EQ(Read().header.claimed, 0u);
  rehome_trace_start(trace_);
  Record(REHOME_TRACE_KVM_GET_MSRS, 3);
  rehome_trace_close(trace_);
  EXPECT_FALSE(rehome_trace_wanted(trace_));
  Record(REHOME_TRACE_KVM_GET_MSRS, 4);
  const Area area = Read();
  ASSERT_EQ(area.header.claimed, 1u);
  EXPECT_EQ(area.calls[0].vcpu, 3u);
  EXPECT_EQ(area.calls[0].operation, static_cast<uint32_t>(REHOME_TRACE_KVM_GET_MSRS));
  EXPECT_EQ(area.calls[0].begin_ns, 1000u);
  EXPECT_EQ(area.calls[0].end_ns, 1000u + kLong);
  EXPECT_EQ(area.calls[0].thread, static_cast<uint32_t>(gettid()));
  EXPECT_EQ(area.calls[0].complete, 1u);
}

TEST_F(Trace, LeavesShortCallsAndOrdinaryRunsOut) {
  Open();
  rehome_trace_start(trace_);
  Record(REHOME_TRACE_KVM_GET_MSRS, 0, kLong - 1);
  for (uint32_t i = 0; i < REHOME_TRACE_RUNS + 5; ++i) {
    Record(REHOME_TRACE_KVM_RUN, 0);
    Record(REHOME_TRACE_KVM_RUN, 1);
    Record(REHOME_TRACE_KVM_RUN, REHOME_TRACE_NO_VCPU);
  }
  EXPECT_EQ(Read().header.claimed, 2 * REHOME_TRACE_RUNS);
}

TEST_F(Trace, CountsWhatDoesNotFit) {
  Open();
  rehome_trace_start(trace_);
  for (uint32_t i = 0; i < REHOME_TRACE_CALLS + 7; ++i) Record(REHOME_TRACE_OTHER, 0);
  EXPECT_EQ(Read().header.claimed, REHOME_TRACE_CALLS + 7);
  for (uint32_t i = 0; i < 2 * REHOME_TRACE_CALLS; ++i) Record(REHOME_TRACE_OTHER, 0);
  EXPECT_EQ(Read().header.claimed, 2 * REHOME_TRACE_CALLS);
}

TEST_F(Trace, StartsEachAreaAnew) {
  Open();
  rehome_trace_start(trace_);
  for (uint32_t i = 0; i < REHOME_TRACE_RUNS + 1; ++i) Record(REHOME_TRACE_KVM_RUN, 0);
  const UniqueFd second(rehome_trace_create_area());
  ASSERT_EQ(rehome_trace_open(trace_, second.borrow().raw()), 0);
  Record(REHOME_TRACE_KVM_RUN, 0);
  rehome_trace_start(trace_);
  Record(REHOME_TRACE_KVM_RUN, 0);
  EXPECT_EQ(Read().header.claimed, REHOME_TRACE_RUNS);
  uint32_t claimed = 0;
  ASSERT_EQ(pread(second.borrow().raw(), &claimed, sizeof(claimed),
                  offsetof(rehome_trace_header, claimed)),
            static_cast<ssize_t>(sizeof(claimed)));
  EXPECT_EQ(claimed, 1u);
}

// Threads write while areas come and go: each call is in an area whole, or nowhere.
TEST_F(Trace, IsWrittenByManyThreadsWhileAreasChange) {
  std::vector<std::thread> threads;
  std::atomic<bool> stop = false;
  for (uint32_t i = 0; i < 3; ++i) {
    threads.emplace_back([this, i, &stop] {
      while (!stop) Record(REHOME_TRACE_KVM_SET_MSRS, i, kLong + i);
    });
  }
  for (int round = 0; round < 200; ++round) {
    const UniqueFd area(rehome_trace_create_area());
    ASSERT_EQ(rehome_trace_open(trace_, area.borrow().raw()), 0);
    rehome_trace_start(trace_);
    rehome_trace_close(trace_);
  }
  Open();
  rehome_trace_start(trace_);
  while (Read().header.claimed < REHOME_TRACE_CALLS) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const Area area = Read();
  for (const rehome_trace_call& call : area.calls) {
    ASSERT_EQ(call.complete, 1u);
    EXPECT_EQ(call.end_ns - call.begin_ns, kLong + call.vcpu);
  }
}

TEST_F(Trace, RefusesWhatIsNoArea) {
  const std::vector<std::function<void(int)>> spoils = {
      [](int fd) { ASSERT_EQ(ftruncate(fd, REHOME_TRACE_SIZE - 1), 0); },
      [](int fd) { ASSERT_EQ(ftruncate(fd, REHOME_TRACE_SIZE + 4096), 0); },
      [](int fd) { ASSERT_EQ(pwrite(fd, "x", 1, 0), 1); },
      [](int fd) { ASSERT_EQ(pwrite(fd, "\2", 1, 8), 1); },
      [](int fd) { ASSERT_EQ(pwrite(fd, "\1", 1, 12), 1); },
      [](int fd) { ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0); },
  };
  const Area good = Read();
  for (size_t i = 0; i < spoils.size() + 1; ++i) {
    const UniqueFd fd(memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const int raw = fd.borrow().raw();
    ASSERT_EQ(write(raw, &good, sizeof(good)), static_cast<ssize_t>(sizeof(good)));
    if (i < spoils.size()) {
      spoils[i](raw);
      ASSERT_EQ(fcntl(raw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    }  // else: right, but not sealed
    Open();
    EXPECT_EQ(rehome_trace_open(trace_, raw), -EINVAL) << i;
    EXPECT_FALSE(rehome_trace_wanted(trace_)) << i;
  }
  EXPECT_EQ(rehome_trace_open(trace_, -1), -EINVAL);
}

}  // namespace
}  // namespace rehome
