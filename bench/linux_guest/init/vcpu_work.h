// SPDX-License-Identifier: Apache-2.0
//
// Keeps each vCPU busy with a chain (chain.h) when nothing else is to be done on it.
#ifndef REHOME_BENCH_LINUX_GUEST_INIT_VCPU_WORK_H_
#define REHOME_BENCH_LINUX_GUEST_INIT_VCPU_WORK_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bench/linux_guest/chain.h"
#include "bench/linux_guest/guest_account.h"
#include "bench/linux_guest/init/clock_watch.h"
#include "bench/linux_guest/init/counters.h"

namespace rehome::linux_guest {

class VcpuWork {
 public:
  // `clocks` and `faults` must outlive the object.
  VcpuWork(uint64_t run, ClockWatch& clocks, Complaints& faults);

  void Start(uint32_t vcpus);
  // Returns once no chain goes on. Once only.
  void Stop();
  void Report(GuestAccount& account) const;

 private:
  struct Worker {
    mutable std::mutex mutex;
    ChainState chain;  // guarded by mutex
    std::thread thread;
  };
  void Main(uint32_t vcpu, Worker& worker);

  const uint64_t run_;
  ClockWatch& clocks_;
  Complaints& faults_;
  std::atomic<bool> stop_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;  // fixed once started
};

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_INIT_VCPU_WORK_H_
