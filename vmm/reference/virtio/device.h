// SPDX-License-Identifier: Apache-2.0
//
// A virtio-mmio device: registers, a backend, and a thread that serves the queues. The VMM gives it
// the guest's accesses, connects its two eventfds to KVM, and in a migration stops it, saves it,
// and restores it in the other process:
//
//   source                                   target
//   Stop()      (may come before the pause)  MakeBlockDevice() or the like, over fd() as it came
//   DeassignIoeventfd (the same)             Restore()
//   pause the vCPUs, DeassignIrqfd           RestoreState() of the irqchip
//   SaveState() of the irqchip               AssignIrqfd, AssignIoeventfd
//   Save()                                   Start()
//
// Why no request is lost or doubled. A request is in one of two places: available in the guest's
// ring at or after QueueState::index, or used. It goes from one to the other when the index goes
// up, which happens after all of its effects, and by one thread that has only this one in hand
// (split_queue.h). Stop() returns when that thread has none in hand and takes no more; so what is
// saved has the effects of exactly the requests before the index, and the target starts at the
// index. No word of a request is anywhere else: buffers are empty between requests, and what has
// not been read from, or written to, fd() stays in the kernel behind the descriptor, which is the
// same one on both sides. A device whose Stop() is followed by Start() goes on in the same way, so
// a migration may be given up at any point.
// Notifications are not requests and may be lost on the way, so nothing relies on them: Start()
// looks at all queues, notified or not, and signals the guest if InterruptStatus has a bit. One
// interrupt too many is harmless, as a driver looks at the rings.
// What this does not cover is a process that dies with a request in hand: nobody has its index.
#ifndef REHOME_VMM_REFERENCE_VIRTIO_DEVICE_H_
#define REHOME_VMM_REFERENCE_VIRTIO_DEVICE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/reference/virtio/backend.h"
#include "vmm/reference/virtio/guest_memory.h"
#include "vmm/reference/virtio/registers.h"
#include "vmm/reference/virtio/state.h"

namespace rehome::virtio {

// Thread-safe; Stop(), Start(), Save() and Restore() are for one thread at a time. Its own thread
// has all signals blocked.
class VirtioDevice {
 public:
  // Told once each time the device breaks, by whichever thread found out, with the device's lock
  // held: it must not call the device.
  using FaultHandler = std::function<void(std::string_view fault)>;

  // A device after reset, stopped. `memory` must outlive it. OS_CALL_FAILED (no descriptors left).
  static absl::StatusOr<std::unique_ptr<VirtioDevice>> Create(std::unique_ptr<Backend> backend,
                                                              GuestMemory& memory,
                                                              FaultHandler on_fault = {});
  // Finishes the request in hand, if any.
  ~VirtioDevice();
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  // An access of the guest, `offset` < kMmioBytes from the start of the device. A write that resets
  // the device or takes a queue away waits until the request in hand is finished, as the driver
  // may reuse its memory then.
  void Read(uint64_t offset, std::span<uint8_t> out) const;
  void Write(uint64_t offset, std::span<const uint8_t> in);

  // Eventfds of this object, for Vm::AssignIoeventfd() at kQueueNotifyOffset and Vm::AssignIrqfd().
  // Neither goes with the guest. Without an ioeventfd Write() does the same; without an irqfd the
  // VMM reads the other one and raises the line.
  BorrowedFd kick() const { return kick_.borrow(); }
  BorrowedFd interrupt() const { return interrupt_.borrow(); }
  // The disk, or the network's end, which goes with the guest.
  BorrowedFd fd() const { return backend_->fd(); }
  uint32_t device_id() const { return backend_->profile().device_id; }

  // Serves requests from now on, those that wait first; signals the guest if it may have missed an
  // interrupt. Does nothing if running.
  void Start();

  // Takes no further request and waits for the one in hand: reads and writes of at most
  // kMaxRequestBytes (block.h), or a flush. DEADLINE_EXCEEDED / DEVICE_BUSY if it is not finished
  // after `limit`; then the device runs as before. The guest may run meanwhile: its requests wait
  // in the rings. Does nothing if stopped.
  absl::Status Stop(std::chrono::milliseconds limit);
  // Stop() has been called and has not returned. For tests that want to be in between.
  bool stopping() const;

  // REQUIRES: no vCPU runs. FAILED_PRECONDITION / DEVICE_RUNNING unless stopped.
  absl::Status Save(VirtioState& state) const;
  // Errors of Registers::Restore(), and DEVICE_RUNNING; the device is as it was then.
  absl::Status Restore(const VirtioState& state);

  // Chains given back since Create().
  uint64_t served() const;
  // Why the device says DEVICE_NEEDS_RESET; nullptr if it does not.
  Fault fault() const;

 private:
  enum class Step : uint8_t { kNothing, kServed, kWaitReadable, kWaitWritable };

  VirtioDevice(std::unique_ptr<Backend> backend, GuestMemory& memory, FaultHandler on_fault,
               UniqueFd kick, UniqueFd interrupt, UniqueFd wake);
  void Loop();
  short ServeAll();
  Step ServeOne(uint32_t queue);
  bool PeekLocked(uint32_t queue);
  Step FinishLocked(uint32_t queue, const Served& served);
  void BreakLocked(Fault fault);
  void Signal();
  void Wake();

  const std::unique_ptr<Backend> backend_;
  GuestMemory& memory_;
  const FaultHandler on_fault_;
  const UniqueFd kick_;
  const UniqueFd interrupt_;
  const UniqueFd wake_;  // eventfd: the thread looks at the state below again
  Chain chain_;          // the thread's own

  mutable std::mutex mutex_;
  std::condition_variable idle_;  // busy_ became false
  // State below is protected by mutex_.
  Registers registers_;
  bool running_ = false;
  bool stopping_ = false;
  bool quitting_ = false;
  bool busy_ = false;   // the thread has chain_ in hand
  uint32_t holds_ = 0;  // writes of the guest that wait for !busy_
  uint64_t served_ = 0;

  std::thread thread_;
};

}  // namespace rehome::virtio

#endif  // REHOME_VMM_REFERENCE_VIRTIO_DEVICE_H_
