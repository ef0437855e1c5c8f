// SPDX-License-Identifier: Apache-2.0
#include "bench/fence_victim.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/floor_guest.h"
#include "bench/floor_shared.h"
#include "bench/floor_vm.h"
#include "bench/kvm_traces.h"
#include "tests/harness/guest_probe.h"

namespace rehome::bench {
namespace {

// Of the guest; the rest of its memory it has only read.
constexpr uint64_t kWorkingSetPages = 1024;
// The reference VMM has its main thread, the agent's and the console's beside those of its vCPUs.
constexpr int kIdleThreads = 2;
// A guest touches a page in 4 us where nothing is prepared.
constexpr std::chrono::milliseconds kTouchTimeout{120'000};

struct VictimState {
  std::unique_ptr<FloorVm> vm;
  std::atomic<bool> stop{false};
  std::atomic<bool> stopped{false};
};

void* RunVcpu(void* opaque) {
  auto& state = *static_cast<VictimState*>(opaque);
  while (!state.stop) state.vm->Run(0);
  state.stopped = true;
  state.stopped.notify_all();
  while (true) pause();
}

void* Idle(void*) {
  while (true) pause();
}

void IgnoreSignal(int) {}

pthread_t StartThread(void* (*run)(void*), void* argument) {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, run, argument) != 0) FloorDie("pthread_create");
  return thread;
}

void GiveUpKvm(pid_t self) {
  const absl::StatusOr<KvmTraces> traces = FindKvmTraces(self);
  if (!traces.ok()) FloorDie("own /proc");
  for (const int fd : traces->descriptors) close(fd);
  for (const KvmMapping& mapping : traces->vcpu_mappings) {
    munmap(reinterpret_cast<void*>(mapping.begin), mapping.end - mapping.begin);
  }
}

void Unmap(pid_t self) {
  const absl::StatusOr<KvmTraces> traces = FindKvmTraces(self);
  if (!traces.ok()) FloorDie("own /proc");
  for (const KvmMapping& mapping : traces->memory_mappings) {
    munmap(reinterpret_cast<void*>(mapping.begin), mapping.end - mapping.begin);
  }
}

[[noreturn]] void Serve(uint64_t memory_mib, BorrowedFd channel) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action = {};
  action.sa_handler = IgnoreSignal;  // its delivery is what ends KVM_RUN
  sigaction(SIGUSR1, &action, nullptr);
  FloorGuest guest(1, memory_mib, kWorkingSetPages, /*memfd=*/false);
  VictimState state;
  state.vm = guest.Start();
  const pthread_t vcpu = StartThread(RunVcpu, &state);
  for (int i = 0; i < kIdleThreads; ++i) StartThread(Idle, nullptr);
  const int memory = guest.memory().raw();
  if (write(channel.raw(), &memory, sizeof(memory)) != sizeof(memory)) _exit(1);
  for (char command = 0; read(channel.raw(), &command, 1) == 1;) {
    switch (static_cast<VictimCommand>(command)) {
      case VictimCommand::kStopVcpu:
        state.stop = true;
        state.vm->RequestExit(0);
        pthread_kill(vcpu, SIGUSR1);
        state.stopped.wait(false);
        break;
      case VictimCommand::kGiveUpKvm:
        GiveUpKvm(getpid());
        break;
      case VictimCommand::kUnmap:
        Unmap(getpid());
        break;
    }
    if (write(channel.raw(), &command, 1) != 1) break;
  }
  _exit(0);
}

}  // namespace

absl::StatusOr<FenceVictim> FenceVictim::Start(uint64_t memory_mib) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) {
    ours.Reset();
    Serve(memory_mib, theirs.borrow());
  }
  FenceVictim victim(pid, UniqueFd(pidfd_open(pid, 0)), std::move(ours));
  int memory = -1;
  if (!victim.pidfd_ ||
      read(victim.channel_.borrow().raw(), &memory, sizeof(memory)) != sizeof(memory)) {
    return absl::UnavailableError("the process to be fenced does not start");
  }
  if (absl::Status status = victim.MapMemory(memory); !status.ok()) return status;
  absl::StatusOr<harness::GuestProbe> probe = harness::GuestProbe::Attach(pid);
  if (!probe.ok()) return probe.status();
  if (absl::Status status = probe->TouchAllPages(); !status.ok()) return status;
  if (auto touched = probe->TimeToTouchAllUs(kTouchTimeout); !touched.ok()) return touched.status();
  return victim;
}

FenceVictim::FenceVictim(FenceVictim&& other) noexcept
    : pid_(other.pid_),
      pidfd_(std::move(other.pidfd_)),
      channel_(std::move(other.channel_)),
      memory_(std::move(other.memory_)),
      low_(std::exchange(other.low_, nullptr)) {}

absl::Status FenceVictim::MapMemory(int fd) {
  memory_ = UniqueFd(pidfd_getfd(pidfd_.borrow().raw(), fd, 0));
  if (!memory_) return absl::ErrnoToStatus(errno, "pidfd_getfd");
  void* low =
      mmap(nullptr, REHOME_GUEST_RESERVED, PROT_READ, MAP_SHARED, memory_.borrow().raw(), 0);
  if (low == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of guest memory");
  low_ = static_cast<const unsigned char*>(low);
  return absl::OkStatus();
}

uint64_t FenceVictim::guest_rounds() const {
  return reinterpret_cast<const volatile rehome_guest_mailbox*>(low_ + REHOME_GUEST_MAILBOXES)
      ->loops;
}

FenceVictim::~FenceVictim() {
  if (low_ != nullptr) munmap(const_cast<unsigned char*>(low_), REHOME_GUEST_RESERVED);
  if (!pidfd_) return;  // moved from
  pidfd_send_signal(pidfd_.borrow().raw(), SIGKILL, nullptr, 0);
  waitpid(pid_, nullptr, 0);
}

absl::Status FenceVictim::Do(VictimCommand command) {
  const char byte = static_cast<char>(command);
  char answer = 0;
  const int fd = channel_.borrow().raw();
  if (send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && read(fd, &answer, 1) == 1) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("process ", pid_, " does not answer"));
}

}  // namespace rehome::bench
