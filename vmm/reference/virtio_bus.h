// SPDX-License-Identifier: Apache-2.0
//
// The virtio-mmio devices of a Linux guest: where they are, what they are connected to, and how
// they go from one VMM to the next (virtio/device.h has the argument).
#ifndef REHOME_VMM_REFERENCE_VIRTIO_BUS_H_
#define REHOME_VMM_REFERENCE_VIRTIO_BUS_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm.h"
#include "vmm/reference/device_config.h"
#include "vmm/reference/guest_log.h"
#include "vmm/reference/virtio/device.h"
#include "vmm/reference/virtio/guest_memory.h"

namespace rehome {

// In the hole of guest-physical memory below 4 GiB; a page and an interrupt for each device.
inline constexpr uint64_t kVirtioMmioBase = 0xd0000000;
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr uint32_t kVirtioFirstInterrupt = 5;

// A device's configuration and the descriptor that it works on.
struct DevicePart {
  DeviceConfig config;
  UniqueFd fd;
};

// New devices as the command line asks for them: disks first. A network's address follows from the
// VM's name and the device's place. Errors of OpenDisk() and OpenTap().
absl::StatusOr<std::vector<DevicePart>> OpenDevices(const std::string& vm_id,
                                                    const std::vector<DiskOption>& disks,
                                                    const std::vector<std::string>& taps);

// What the kernel's command line says of `count` devices: " virtio_mmio.device=4K@0xd0000000:5"
// for each.
std::string VirtioCmdline(size_t count);

// Access() is for vCPU threads, everything else for one thread at a time.
class VirtioBus {
 public:
  // Devices after reset, stopped, and connected to `vm`, which must outlive the object. Errors of
  // AdoptDisk(), MakeNetBackend(), VirtioDevice::Create() and of the connections.
  static absl::StatusOr<std::unique_ptr<VirtioBus>> Create(
      Vm& vm, std::vector<virtio::MappedGuestMemory::Region> ram, std::vector<DevicePart> parts);
  ~VirtioBus();

  size_t size() const { return slots_.size(); }
  BorrowedFd fd(size_t i) const;

  // Serves an access; false if no device is there.
  bool Access(const MmioAccess& access);

  // Takes no further request, finishes those in hand, and lets the eventfds of the notifications
  // go: a vCPU that still runs notifies by an exit. Here, with the guest running, because the
  // kernel waits for a grace period with each, which in the blackout the guest would wait for.
  // DEVICE_BUSY if the requests need longer than `limit` together, and errors of
  // Vm::DeassignIoeventfd(): all devices run then, as after Start().
  absl::Status Stop(std::chrono::milliseconds limit);
  // Lets the interrupts go, so that every edge under way is in the irqchip when this returns.
  // REQUIRES: stopped, and no vCPU runs.
  absl::Status ReleaseInterrupts();
  // Connects what was let go, and serves requests, those that wait first. An error tells of one
  // that cannot be connected again; the others run. A device without interrupt is not started; one
  // without eventfd is, since the guest's notifications are exits then.
  absl::Status Start();

  // REQUIRES: stopped, and no vCPU runs; out.size() == size().
  absl::Status Save(std::span<virtio::VirtioState> out) const;
  absl::Status Restore(std::span<const virtio::VirtioState> states);

 private:
  struct Slot {
    std::unique_ptr<virtio::VirtioDevice> device;
    bool has_notification = false;  // an ioeventfd
    bool has_interrupt = false;     // an irqfd
  };

  VirtioBus(Vm& vm, std::vector<virtio::MappedGuestMemory::Region> ram);
  absl::Status Add(DevicePart part);
  absl::Status Connect();
  absl::Status ReleaseNotifications();

  Vm& vm_;
  virtio::MappedGuestMemory memory_;
  GuestLog log_;  // of the devices
  std::vector<Slot> slots_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VIRTIO_BUS_H_
