// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio_bus.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/tap.h"
#include "vmm/reference/sections.h"
#include "vmm/reference/virtio/block.h"
#include "vmm/reference/virtio/net.h"

namespace rehome {
namespace {

uint64_t AddressOf(size_t i) { return kVirtioMmioBase + i * kVirtioMmioStride; }
uint64_t NotifyAddressOf(size_t i) { return AddressOf(i) + virtio::kQueueNotifyOffset; }
uint32_t InterruptOf(size_t i) { return kVirtioFirstInterrupt + static_cast<uint32_t>(i); }

absl::StatusOr<std::unique_ptr<virtio::Backend>> MakeBackend(DevicePart part, size_t i) {
  switch (part.config.kind) {
    case DeviceKind::kBlock: {
      auto disk = virtio::AdoptDisk(std::move(part.fd), part.config.read_only);
      if (!disk.ok()) return disk.status();
      return virtio::MakeBlockBackend(*std::move(disk), absl::StrCat("rehome-", i));
    }
    case DeviceKind::kNet:
      return virtio::MakeNetBackend(std::move(part.fd), part.config.mac);
  }
  return absl::InternalError("a device of no kind");
}

// Locally administered (IEEE 802, the second bit of the first byte); another one for each name of a
// VM and each place.
virtio::MacAddress MacOf(const std::string& vm_id, size_t i) {
  const uint64_t hash = SectionChecksum(std::as_bytes(std::span(vm_id)));
  return {0x02,
          static_cast<uint8_t>(hash),
          static_cast<uint8_t>(hash >> 8),
          static_cast<uint8_t>(hash >> 16),
          static_cast<uint8_t>(hash >> 24),
          static_cast<uint8_t>(i)};
}

}  // namespace

absl::StatusOr<std::vector<DevicePart>> OpenDevices(const std::string& vm_id,
                                                    const std::vector<DiskOption>& disks,
                                                    const std::vector<std::string>& taps) {
  std::vector<DevicePart> parts;
  for (const auto& [path, read_only] : disks) {
    auto disk = virtio::OpenDisk(path, read_only);
    if (!disk.ok()) return disk.status();
    const DeviceConfig config = {.kind = DeviceKind::kBlock, .read_only = read_only};
    parts.push_back({.config = config, .fd = std::move(disk->fd)});
  }
  for (const std::string& name : taps) {
    auto tap = OpenTap(name);
    if (!tap.ok()) return tap.status();
    const DeviceConfig config = {.kind = DeviceKind::kNet, .mac = MacOf(vm_id, parts.size())};
    parts.push_back({.config = config, .fd = *std::move(tap)});
  }
  return parts;
}

std::string VirtioCmdline(size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppendFormat(&text, " virtio_mmio.device=4K@%#x:%u", AddressOf(i), InterruptOf(i));
  }
  return text;
}

VirtioBus::VirtioBus(Vm& vm, std::vector<virtio::MappedGuestMemory::Region> ram)
    : vm_(vm), memory_(std::move(ram)) {}

VirtioBus::~VirtioBus() = default;

absl::StatusOr<std::unique_ptr<VirtioBus>> VirtioBus::Create(
    Vm& vm, std::vector<virtio::MappedGuestMemory::Region> ram, std::vector<DevicePart> parts) {
  std::unique_ptr<VirtioBus> bus(new VirtioBus(vm, std::move(ram)));
  for (DevicePart& part : parts) {
    absl::Status status = bus->Add(std::move(part));
    if (!status.ok()) return status;
  }
  absl::Status status = bus->Connect();
  if (!status.ok()) return status;
  return bus;
}

absl::Status VirtioBus::Add(DevicePart part) {
  const size_t i = slots_.size();
  auto backend = MakeBackend(std::move(part), i);
  if (!backend.ok()) return backend.status();
  auto device =
      virtio::VirtioDevice::Create(*std::move(backend), memory_, [this, i](std::string_view fault) {
        log_.Line(absl::StrCat("virtio device ", i, " needs a reset: ", std::string(fault)));
      });
  if (!device.ok()) return device.status();
  slots_.push_back({.device = *std::move(device)});
  return absl::OkStatus();
}

absl::Status VirtioBus::Connect() {
  absl::Status first;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (!slot.has_notification) {
      absl::Status status = vm_.AssignIoeventfd(slot.device->kick(), NotifyAddressOf(i));
      slot.has_notification = status.ok();
      first.Update(status);
    }
    if (!slot.has_interrupt) {
      absl::Status status = vm_.AssignIrqfd(slot.device->interrupt(), InterruptOf(i));
      slot.has_interrupt = status.ok();
      first.Update(status);
    }
  }
  return first;
}

BorrowedFd VirtioBus::fd(size_t i) const { return slots_[i].device->fd(); }

bool VirtioBus::Access(const MmioAccess& access) {
  if (access.gpa < kVirtioMmioBase) return false;
  const uint64_t i = (access.gpa - kVirtioMmioBase) / kVirtioMmioStride;
  const uint64_t offset = (access.gpa - kVirtioMmioBase) % kVirtioMmioStride;
  if (i >= slots_.size() || offset >= virtio::kMmioBytes) return false;
  virtio::VirtioDevice& device = *slots_[i].device;
  if (access.is_write) {
    device.Write(offset, access.data);
  } else {
    device.Read(offset, access.data);
  }
  return true;
}

absl::Status VirtioBus::Stop(std::chrono::milliseconds limit) {
  using std::chrono::milliseconds;
  using std::chrono::steady_clock;
  const auto end = steady_clock::now() + limit;
  for (const Slot& slot : slots_) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - steady_clock::now());
    absl::Status status = slot.device->Stop(std::max(left, milliseconds(0)));
    if (status.ok()) continue;
    Start().IgnoreError();  // nothing was let go that it could fail to connect
    return status;
  }
  absl::Status status = ReleaseNotifications();
  if (!status.ok()) Start().IgnoreError();  // what it cannot connect is an exit from now on
  return status;
}

absl::Status VirtioBus::ReleaseNotifications() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].has_notification) continue;
    absl::Status status = vm_.DeassignIoeventfd(slots_[i].device->kick(), NotifyAddressOf(i));
    if (!status.ok()) return status;
    slots_[i].has_notification = false;
  }
  return absl::OkStatus();
}

absl::Status VirtioBus::ReleaseInterrupts() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].has_interrupt) continue;
    absl::Status status = vm_.DeassignIrqfd(slots_[i].device->interrupt(), InterruptOf(i));
    if (!status.ok()) return status;
    slots_[i].has_interrupt = false;
  }
  return absl::OkStatus();
}

absl::Status VirtioBus::Start() {
  // One that has lost its interrupt takes none of the others along.
  absl::Status status = Connect();
  for (const Slot& slot : slots_) {
    if (slot.has_interrupt) slot.device->Start();
  }
  return status;
}

absl::Status VirtioBus::Save(std::span<virtio::VirtioState> out) const {
  for (size_t i = 0; i < slots_.size(); ++i) {
    absl::Status status = slots_[i].device->Save(out[i]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status VirtioBus::Restore(std::span<const virtio::VirtioState> states) {
  if (states.size() != slots_.size()) {
    return absl::InternalError("the states of another number of devices");
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    absl::Status status = slots_[i].device->Restore(states[i]);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace rehome
