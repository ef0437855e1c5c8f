// SPDX-License-Identifier: Apache-2.0
//
// The floor: the least that a hand-over of a running guest between two processes can be, and
// therefore what Rehome's blackout is held against. No daemon, no agent, no messages: a page shared
// by fork(), one word to start on, one word to hand over on. Everything that can be done before the
// blackout has been done: the next process has its VM, vCPUs, CPUID, memory mapping, populated page
// tables and memslots, and its vCPU threads sleep on the word.
//
// What it leaves out is what Rehome is for: nobody compares layouts, decides who owns the guest,
// survives a death on either side or proves that the old process is gone.
//
// One line of JSON per hop on standard output. `blackout_us` ends where the product's does: all
// state is restored and the first vCPU is about to enter the guest. `last_vcpu_us` ends with the
// last one, which with more busy vCPUs than cores is the scheduler's to say.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/floor_guest.h"
#include "bench/floor_shared.h"
#include "bench/floor_vm.h"

namespace rehome::bench {
namespace {

struct Options {
  int vcpus = 1;
  uint64_t memory_mib = 64;
  int hops = 100;
  int dwell_ms = 20;
  uint64_t working_set_pages = 1024;
  bool memfd = false;
};

// What one process of the chain runs the guest with.
struct Vmm {
  FloorShared& shared;
  const Options& options;
  const uint32_t generation;
  std::unique_ptr<FloorVm> vm;
  std::vector<pthread_t> threads;
};

struct VcpuArgument {
  Vmm* vmm;
  int index;
};

// Of all vCPUs of all generations: the last one of each announces, the others wait.
bool IsLast(std::atomic<uint32_t>& count, const Vmm& vmm, uint32_t generation) {
  return count.fetch_add(1) + 1 == generation * static_cast<uint32_t>(vmm.options.vcpus);
}

void TakeOver(Vmm& vmm, int index) {
  FloorShared& shared = vmm.shared;
  const uint32_t generation = vmm.generation;
  shared.saved.WaitFor(generation);
  vmm.vm->Set(index, shared.vcpus[index]);
  if (index == 0) vmm.vm->Set(shared.vm);
  // Nobody may run before everybody is restored: an IPI sent to a LAPIC that is then set is lost.
  if (IsLast(shared.restored_count, vmm, generation)) {
    shared.restored_ns = FloorNow();
    shared.restored.Announce(generation);
  } else {
    shared.restored.WaitFor(generation);
  }
  shared.entering_ns[index] = FloorNow();
  shared.entered_count.fetch_add(1, std::memory_order_release);
}

void HandOver(Vmm& vmm, int index) {
  FloorShared& shared = vmm.shared;
  const uint32_t next = vmm.generation + 1;
  // Nobody may save before everybody has stopped, for the same reason.
  if (IsLast(shared.stopped_count, vmm, next)) {
    shared.stopped_ns = FloorNow();
    shared.stopped.Announce(next);
  } else {
    shared.stopped.WaitFor(next);
  }
  vmm.vm->Get(index, shared.vcpus[index]);
  if (!IsLast(shared.saved_count, vmm, next)) return;
  vmm.vm->Get(shared.vm);
  shared.saved_ns = FloorNow();
  shared.saved.Announce(next);
}

void* VcpuThread(void* opaque) {
  const std::unique_ptr<VcpuArgument> argument(static_cast<VcpuArgument*>(opaque));
  Vmm& vmm = *argument->vmm;
  if (vmm.generation > 0) TakeOver(vmm, argument->index);
  do {
    vmm.vm->Run(argument->index);
  } while (vmm.shared.request.value() <= vmm.generation);
  HandOver(vmm, argument->index);
  while (true) pause();
}

void IgnoreSignal(int) {}

void StartThreads(Vmm& vmm) {
  struct sigaction action = {};
  action.sa_handler = IgnoreSignal;  // its delivery is what ends KVM_RUN
  sigaction(SIGUSR1, &action, nullptr);
  vmm.threads.resize(vmm.options.vcpus);
  for (int i = 0; i < vmm.options.vcpus; ++i) {
    if (pthread_create(&vmm.threads[i], nullptr, VcpuThread, new VcpuArgument{&vmm, i}) != 0) {
      FloorDie("pthread_create");
    }
  }
}

// Everything that can be done before the blackout. The first process starts the guest instead.
void Prepare(Vmm& vmm, FloorGuest& guest, BorrowedFd memory) {
  if (vmm.generation == 0) {
    vmm.vm = guest.Start();
    vmm.shared.memory_fd = guest.memory().raw();
    return;
  }
  vmm.vm = std::make_unique<FloorVm>(vmm.options.vcpus);
  const uint64_t size = vmm.options.memory_mib << 20;
  void* ram = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory.raw(), 0);
  if (ram == MAP_FAILED) FloorDie("mmap of guest memory");
  // Without this the guest pays for the page tables after the hop: 4.4 us per page instead of 0.7.
  if (madvise(ram, size, MADV_POPULATE_READ) != 0) FloorDie("MADV_POPULATE_READ");
  vmm.vm->SetSlots(ram, size);
}

// One process of the chain, until it is killed.
[[noreturn]] void RunGeneration(FloorShared& shared, const Options& options, uint32_t generation,
                                BorrowedFd memory) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Vmm vmm = {.shared = shared, .options = options, .generation = generation};
  FloorGuest guest(options.vcpus, options.memory_mib, options.working_set_pages, options.memfd);
  Prepare(vmm, guest, memory);
  StartThreads(vmm);
  shared.prepared.Announce(generation + 1);

  shared.request.WaitFor(generation + 1);
  shared.requested_ns = FloorNow();
  for (int i = 0; i < options.vcpus; ++i) vmm.vm->RequestExit(i);
  for (const pthread_t thread : vmm.threads) pthread_kill(thread, SIGUSR1);
  while (true) pause();
}

// The process that starts the others and asks for the hops; it never touches KVM.
class Chain {
 public:
  explicit Chain(const Options& options) : options_(options) {
    void* block = mmap(nullptr, sizeof(FloorShared), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (block == MAP_FAILED) FloorDie("mmap of the shared page");
    shared_ = new (block) FloorShared();
  }

  void Start() {
    running_ = Fork(0);
    const UniqueFd pidfd(pidfd_open(running_, 0));
    memory_ = UniqueFd(pidfd_getfd(pidfd.borrow().raw(), shared_->memory_fd, 0));
    if (!memory_) FloorDie("pidfd_getfd");
    void* low = mmap(nullptr, REHOME_GUEST_RESERVED, PROT_READ | PROT_WRITE, MAP_SHARED,
                     memory_.borrow().raw(), 0);
    if (low == MAP_FAILED) FloorDie("mmap of the mailboxes");
    mailboxes_ = FloorMailboxes(low, options_.vcpus);
    mailboxes_.AwaitStart();
  }

  void Hop(uint32_t number) {
    const pid_t next = Fork(number);
    FloorSleepMs(options_.dwell_ms);
    mailboxes_.ResetGaps();
    shared_->request.Announce(number);
    const auto all = static_cast<uint32_t>(options_.vcpus);
    Await([&] { return shared_->entered_count.load(std::memory_order_acquire) == number * all; });
    FloorSleepMs(options_.dwell_ms);
    Print(number);
    kill(running_, SIGKILL);
    waitpid(running_, nullptr, 0);
    running_ = next;
  }

  uint64_t Errors() const { return mailboxes_.Errors(); }

 private:
  // Returns once the new process is ready to take the guest (the first: to run it).
  pid_t Fork(uint32_t generation) {
    const pid_t child = fork();
    if (child < 0) FloorDie("fork");
    if (child == 0) {
      RunGeneration(*shared_, options_, generation, memory_.borrow());
    }
    Await([&] { return shared_->prepared.value() > generation; });
    return child;
  }

  // Looks each millisecond instead of sleeping on the word, so that the guest's blackout does not
  // pay for waking the onlooker.
  template <typename Condition>
  void Await(Condition condition) {
    while (!condition()) {
      siginfo_t info = {};
      waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT);
      if (info.si_pid != 0) {
        fprintf(stderr, "floor: process %d of the chain has ended by itself\n", info.si_pid);
        exit(1);
      }
      FloorSleepMs(1);
    }
  }

  void Print(uint32_t hop) const {
    const FloorShared& s = *shared_;
    const auto us = [](uint64_t from, uint64_t to) {
      return (static_cast<double>(to) - static_cast<double>(from)) / 1000;
    };
    const auto [first, last] = std::minmax_element(s.entering_ns, s.entering_ns + options_.vcpus);
    printf(
        "{\"hop\":%u,\"blackout_us\":%.1f,\"last_vcpu_us\":%.1f,\"guest_gap_us\":%.1f,"
        "\"stop_vcpus_us\":%.1f,\"save_state_us\":%.1f,\"restore_state_us\":%.1f,"
        "\"resume_us\":%.1f}\n",
        hop, us(s.requested_ns, *first), us(s.requested_ns, *last), mailboxes_.LongestGapUs(),
        us(s.requested_ns, s.stopped_ns), us(s.stopped_ns, s.saved_ns),
        us(s.saved_ns, s.restored_ns), us(s.restored_ns, *first));
    fflush(stdout);
  }

  const Options& options_;
  FloorShared* shared_ = nullptr;
  UniqueFd memory_;
  FloorMailboxes mailboxes_;
  pid_t running_ = -1;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("The smallest hand-written hand-over of a running guest between two processes");
  app.add_option("--vcpus", options.vcpus)->check(CLI::Range(1, kFloorMaxVcpus));
  app.add_option("--memory", options.memory_mib, "MiB")->check(CLI::Range(16, 1 << 16));
  app.add_option("--hops", options.hops)->check(CLI::Range(1, 1 << 20));
  app.add_option("--dwell", options.dwell_ms, "ms the guest runs before and after a hop");
  app.add_option("--working-set", options.working_set_pages, "pages per vCPU");
  app.add_flag("--memfd", options.memfd, "guest memory is a memfd and no guest_memfd");
  CLI11_PARSE(app, argc, argv);

  Chain chain(options);
  chain.Start();
  for (int hop = 1; hop <= options.hops; ++hop) chain.Hop(static_cast<uint32_t>(hop));
  if (chain.Errors() == 0) return 0;
  fprintf(stderr, "floor: the guest counted %lu errors\n", chain.Errors());
  return 1;
}

}  // namespace
}  // namespace rehome::bench

int main(int argc, char** argv) { return rehome::bench::Main(argc, argv); }
