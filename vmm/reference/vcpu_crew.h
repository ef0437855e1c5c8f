// SPDX-License-Identifier: Apache-2.0
//
// The vCPU threads of a VM: they run the guest, stop together, do one piece of work together while
// it is stopped (saving, each its own vCPU), and go on.
#ifndef REHOME_VMM_REFERENCE_VCPU_CREW_H_
#define REHOME_VMM_REFERENCE_VCPU_CREW_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "kvmglue/vcpu.h"
#include "vmm/reference/blackout_steps.h"
#include "vmm/reference/devices.h"

namespace rehome {

// Why the guest does not run any more.
enum class GuestEnd : uint8_t {
  kPowerOff,  // it asked for it
  kCrashed,   // triple fault, or an exception that it gave up on
  kVmmError,  // KVM_RUN failed or came back with something that we cannot serve
};

// What the crew tells its owner. Called on vCPU threads; must not block and not call the crew.
class CrewListener {
 public:
  virtual ~CrewListener() = default;
  // Once. No vCPU enters the guest again.
  virtual void OnGuestEnd(GuestEnd end, const std::string& text) = 0;
  // A crew that took a guest over: every vCPU has been in the guest and come back. Once.
  virtual void OnFirstRun() = 0;
};

// Work of all vCPU threads while no vCPU is in KVM_RUN.
class PausedWork {
 public:
  virtual ~PausedWork() = default;
  // Once, by the last vCPU that stopped, before any Run(). `guest_ended`: a vCPU ended the guest on
  // its way here, which is final: none can do so later in the pause.
  virtual void OnAllStopped(bool guest_ended) = 0;
  // On each vCPU's thread, at the same time.
  virtual void Run(uint32_t index) = 0;
};

// What the threads of a target do before they run the guest.
class TakeOverWork {
 public:
  virtual ~TakeOverWork() = default;
  // On each vCPU's thread, at the same time; blocks until the guest is ours. False, for all of
  // them: it will never be.
  virtual bool Run(uint32_t index) = 0;
};

// Signals a vCPU thread out of KVM_RUN; SIGUSR1 is the crew's, in the whole process.
class VcpuCrew {
 public:
  // Everything must outlive the crew. `listener` and `devices` are called from any vCPU thread.
  // `without`: only kSpin is the crew's.
  VcpuCrew(std::vector<std::unique_ptr<Vcpu>>& vcpus, Devices& devices, CrewListener& listener,
           BlackoutSteps without = {});
  // Stops.
  ~VcpuCrew();

  // Starts the threads; once. With `take_over` each thread does that first; after it the first time
  // in the guest is cut short (kFirstRunCheck) to tell the listener that all is well.
  // OS_CALL_FAILED.
  absl::Status Start(TakeOverWork* take_over);

  // Stops every vCPU and does `work` on the threads; returns when all have finished.
  // FAILED_PRECONDITION / GUEST_ENDED: the guest has ended (meanwhile), `work` may or may not have
  // been done. Not to be called again before Resume(), nor while a take-over is under way.
  absl::Status Pause(PausedWork& work);
  // After Pause(), whatever it returned.
  void Resume();

  // Stops and joins the threads. For a crew whose take-over blocks, that must have been ended
  // before.
  void Stop();

 private:
  // What the threads are to do; a futex word.
  // From kPause on every value is a pause, each another one: a thread that is slow to leave one
  // must not take the next for the same.
  enum Command : uint32_t { kNotYet = 0, kRun = 1, kEnded = 2, kStop = 3, kPause = 4 };

  void Main(uint32_t index);
  bool TakeOver(uint32_t index);
  void RunGuest(uint32_t index);
  // False: the guest has ended.
  bool ServeExit(uint32_t index, VcpuExit exit);
  void ServePortIo(uint32_t index);
  void ContinueAfterKick(uint32_t index);
  void NoteFirstRun(uint32_t index);
  // `pause`: the command that asked for it.
  void DoPausedWork(uint32_t index, uint32_t pause);
  void End(GuestEnd end, const std::string& text);
  void KickAll();

  std::vector<std::unique_ptr<Vcpu>>& vcpus_;
  Devices& devices_;
  CrewListener& listener_;
  TakeOverWork* take_over_ = nullptr;
  const std::chrono::nanoseconds spin_;

  std::atomic<uint32_t> command_{kNotYet};
  uint32_t next_pause_ = kPause;
  // Of the pause under way.
  PausedWork* work_ = nullptr;
  std::atomic<uint32_t> stopped_{0};
  std::atomic<uint32_t> finished_{0};
  std::atomic<uint32_t> pause_done_{0};

  std::atomic<uint32_t> first_runs_missing_{0};
  std::vector<std::atomic<bool>> was_in_guest_;
  std::atomic<bool> ended_{false};
  std::vector<std::thread> threads_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VCPU_CREW_H_
