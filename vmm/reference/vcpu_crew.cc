// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vcpu_crew.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/wait.h"

namespace rehome {
namespace {

constexpr int kKickSignal = SIGUSR1;
// How long a guest that was taken over runs before it is asked whether it can: long beside the
// blackout, short beside every deadline.
constexpr long kFirstRunCheckNs = 5'000'000;

// The vCPU of this thread, for the signal handler.
thread_local Vcpu* this_vcpu = nullptr;

// A signal that comes just before KVM_RUN would be lost without the flag.
void OnKick(int) {
  if (this_vcpu != nullptr) this_vcpu->RequestImmediateExit();
}

absl::Status InstallKickHandler() {
  struct sigaction action = {};
  action.sa_handler = OnKick;  // no SA_RESTART: KVM_RUN must come back
  sigemptyset(&action.sa_mask);
  if (sigaction(kKickSignal, &action, nullptr) == 0) return absl::OkStatus();
  return OsError("sigaction", "SIGUSR1", errno);
}

// Threads inherit name and signal mask. A target's are started from the agent library's thread,
// which blocks every signal; a blocked kick does not end KVM_RUN.
void BecomeVcpuThread(uint32_t index) {
  sigset_t kick;
  sigemptyset(&kick);
  sigaddset(&kick, kKickSignal);
  pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
  pthread_setname_np(pthread_self(), absl::StrCat("vcpu-", index).c_str());
}

}  // namespace

VcpuCrew::VcpuCrew(std::vector<std::unique_ptr<Vcpu>>& vcpus, Devices& devices,
                   CrewListener& listener, BlackoutSteps without)
    : vcpus_(vcpus),
      devices_(devices),
      listener_(listener),
      spin_(SpinBudget(static_cast<uint32_t>(vcpus.size()), without)),
      was_in_guest_(vcpus.size()) {}

VcpuCrew::~VcpuCrew() { Stop(); }

absl::Status VcpuCrew::Start(TakeOverWork* take_over) {
  absl::Status status = InstallKickHandler();
  if (!status.ok()) return status;
  take_over_ = take_over;
  if (take_over != nullptr) first_runs_missing_ = static_cast<uint32_t>(vcpus_.size());
  threads_.reserve(vcpus_.size());
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    threads_.emplace_back([this, i] { Main(i); });
  }
  // Only now: the threads kick each other, and need the whole list for that.
  command_ = kRun;
  command_.notify_all();
  return absl::OkStatus();
}

void VcpuCrew::Main(uint32_t index) {
  BecomeVcpuThread(index);
  this_vcpu = vcpus_[index].get();
  command_.wait(kNotYet, std::memory_order_acquire);
  const bool has_guest = take_over_ == nullptr || TakeOver(index);
  for (;;) {
    const uint32_t command = command_.load(std::memory_order_acquire);
    if (command == kStop) break;
    if (command == kRun && has_guest) {
      RunGuest(index);
    } else if (command >= kPause && has_guest) {
      DoPausedWork(index, command);
    } else {
      command_.wait(command, std::memory_order_acquire);
    }
  }
  this_vcpu = nullptr;
}

// The check of the first run is a timer of the kernel's, made beforehand, so that nobody has to be
// awake for it in the blackout.
bool VcpuCrew::TakeOver(uint32_t index) {
  if (index != 0) return take_over_->Run(index);
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kKickSignal;
  event._sigev_un._tid = gettid();
  timer_t timer;
  const bool has_timer = timer_create(CLOCK_MONOTONIC, &event, &timer) == 0;
  if (!take_over_->Run(index)) return false;
  const itimerspec in_a_moment = {.it_interval = {}, .it_value = {0, kFirstRunCheckNs}};
  if (!has_timer || timer_settime(timer, 0, &in_a_moment, nullptr) < 0) {
    // The check comes at once: the first KVM_RUN returns before the guest has run.
    vcpus_[index]->RequestImmediateExit();
  }
  return true;
}

void VcpuCrew::NoteFirstRun(uint32_t index) {
  if (was_in_guest_[index].exchange(true)) return;
  if (index == 0) {
    for (uint32_t i = 1; i < vcpus_.size(); ++i) {
      if (!was_in_guest_[i]) vcpus_[i]->Kick(threads_[i].native_handle(), kKickSignal);
    }
  }
  if (first_runs_missing_.fetch_sub(1) == 1) listener_.OnFirstRun();
}

void VcpuCrew::RunGuest(uint32_t index) {
  Vcpu& vcpu = *vcpus_[index];
  // A pause begins between two instructions: one that makes several accesses makes them all before,
  // as devices may not be asked any more when it has begun.
  while (command_.load(std::memory_order_acquire) == kRun || vcpu.io_pending()) {
    const absl::StatusOr<VcpuExit> exit = vcpu.Run();
    if (!exit.ok()) {
      End(GuestEnd::kVmmError, absl::StrCat("vCPU ", index, ": ", exit.status().message()));
      return;
    }
    if (!ServeExit(index, *exit)) return;
    if (first_runs_missing_.load(std::memory_order_relaxed) != 0) NoteFirstRun(index);
  }
}

bool VcpuCrew::ServeExit(uint32_t index, VcpuExit exit) {
  Vcpu& vcpu = *vcpus_[index];
  switch (exit) {
    case VcpuExit::kInterrupted:
      ContinueAfterKick(index);
      return true;
    case VcpuExit::kIo:
      ServePortIo(index);
      return true;
    case VcpuExit::kMmio:
      devices_.HandleMmio(vcpu.mmio());
      return true;
    case VcpuExit::kShutdown:
      End(GuestEnd::kCrashed, absl::StrCat("vCPU ", index, ": triple fault"));
      return false;
    case VcpuExit::kHalt:  // nothing could wake it: there is an in-kernel irqchip
    case VcpuExit::kSystemEvent:
    case VcpuExit::kMemoryFault:
    case VcpuExit::kInternalError:
    case VcpuExit::kUnknown:
      End(GuestEnd::kVmmError, absl::StrCat("vCPU ", index, ": ", vcpu.DescribeExit()));
      return false;
  }
  return false;
}

void VcpuCrew::ServePortIo(uint32_t index) {
  switch (devices_.Handle(vcpus_[index]->io())) {
    case PortOutcome::kContinue:
      return;
    case PortOutcome::kPowerOff:
      End(GuestEnd::kPowerOff, "the guest has switched itself off");
      return;
    case PortOutcome::kReset:
      End(GuestEnd::kPowerOff, "the guest has reset itself");
      return;
    case PortOutcome::kGuestFault:
      End(GuestEnd::kCrashed, absl::StrCat("vCPU ", index, " of the guest took an exception"));
      return;
  }
}

// Clears the request for immediate exit, unless a pause has been asked for meanwhile: its own
// request must not be the one that is cleared.
void VcpuCrew::ContinueAfterKick(uint32_t index) {
  vcpus_[index]->ClearImmediateExit();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (command_.load(std::memory_order_relaxed) != kRun) vcpus_[index]->RequestImmediateExit();
}

void VcpuCrew::KickAll() {
  for (size_t i = 0; i < threads_.size(); ++i) {
    vcpus_[i]->Kick(threads_[i].native_handle(), kKickSignal);
  }
}

absl::Status VcpuCrew::Pause(PausedWork& work) {
  const absl::Status ended =
      MakeStatus(absl::StatusCode::kFailedPrecondition, "GUEST_ENDED", "the guest has ended");
  work_ = &work;
  stopped_ = finished_ = pause_done_ = 0;
  uint32_t running = kRun;
  if (!command_.compare_exchange_strong(running, next_pause_)) return ended;
  next_pause_ = std::max<uint32_t>(next_pause_ + 1, kPause);  // it may wrap around
  command_.notify_all();
  KickAll();
  // No spinning: the vCPU threads need the CPU, and nobody waits for this one.
  AwaitAtLeast(pause_done_, 1, std::chrono::nanoseconds(0));
  return ended_ ? ended : absl::OkStatus();
}

void VcpuCrew::DoPausedWork(uint32_t index, uint32_t pause) {
  const auto count = static_cast<uint32_t>(vcpus_.size());
  // No vCPU may run while another is saved: it could still send it an interrupt.
  if (stopped_.fetch_add(1) + 1 == count) {
    work_->OnAllStopped(ended_);
    stopped_.fetch_add(1);
    stopped_.notify_all();
  }
  AwaitAtLeast(stopped_, count + 1, spin_);
  work_->Run(index);
  if (finished_.fetch_add(1) + 1 == count) {
    pause_done_ = 1;
    pause_done_.notify_all();
  }
  command_.wait(pause, std::memory_order_acquire);
}

void VcpuCrew::Resume() {
  uint32_t paused = command_.load(std::memory_order_relaxed);
  if (paused >= kPause) command_.compare_exchange_strong(paused, ended_ ? kEnded : kRun);
  command_.notify_all();
}

void VcpuCrew::End(GuestEnd end, const std::string& text) {
  if (ended_.exchange(true)) return;
  // A pause under way goes on: its work counts on every thread. It reports that the guest has
  // ended.
  uint32_t running = kRun;
  command_.compare_exchange_strong(running, kEnded);
  command_.notify_all();
  KickAll();
  listener_.OnGuestEnd(end, text);
}

void VcpuCrew::Stop() {
  command_ = kStop;
  command_.notify_all();
  KickAll();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace rehome
