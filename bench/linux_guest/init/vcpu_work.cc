// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/vcpu_work.h"

#include <sched.h>

namespace rehome::linux_guest {
namespace {

// Between two looks at the clocks: some tens of microseconds on a processor.
constexpr uint64_t kBatch = 1 << 14;

}  // namespace

VcpuWork::VcpuWork(uint64_t run, ClockWatch& clocks, Complaints& faults)
    : run_(run), clocks_(clocks), faults_(faults) {}

void VcpuWork::Start(uint32_t vcpus) {
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->chain = ChainStart(run_, vcpu);
  }
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    Worker& worker = *workers_[vcpu];
    worker.thread = std::thread([this, vcpu, &worker] { Main(vcpu, worker); });
  }
}

void VcpuWork::Main(uint32_t vcpu, Worker& worker) {
  if (!PinTo(vcpu)) faults_.Add(WithErrno("chain: no vCPU " + std::to_string(vcpu)));
  // Whatever else wants to run, runs.
  const sched_param param = {};
  if (sched_setscheduler(0, SCHED_IDLE, &param) != 0) faults_.Add(WithErrno("SCHED_IDLE"));
  ChainState chain = ChainStart(run_, vcpu);
  while (!stop_) {
    AdvanceChain(chain, kBatch);
    // It waits long for its turn, which says nothing of a gap: each look is its first.
    uint64_t last_look = 0;
    clocks_.Look(last_look);
    const std::lock_guard<std::mutex> lock(worker.mutex);
    worker.chain = chain;
  }
}

void VcpuWork::Stop() {
  stop_ = true;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    if (worker->thread.joinable()) worker->thread.join();
  }
}

void VcpuWork::Report(GuestAccount& account) const {
  account.Set("vcpus", workers_.size());
  for (uint32_t vcpu = 0; vcpu < workers_.size(); ++vcpu) {
    const std::lock_guard<std::mutex> lock(workers_[vcpu]->mutex);
    account.SetChain(vcpu, workers_[vcpu]->chain);
  }
}

}  // namespace rehome::linux_guest
