// SPDX-License-Identifier: Apache-2.0
//
// What of a guest's platform and devices a target has to know beforehand.
#ifndef REHOME_VMM_REFERENCE_DEVICE_CONFIG_H_
#define REHOME_VMM_REFERENCE_DEVICE_CONFIG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rehome {

// Interrupts 5 to 11, one for each.
inline constexpr size_t kMaxDevices = 7;

// What the guest is, which decides what its machine is like. Numbers of the format.
enum class GuestKind : uint32_t {
  kPayload = 0,  // the built-in one: a serial port that is polled
  kLinux = 1,    // serial interrupts, virtio-mmio devices
};

// Numbers of the format: never re-used.
enum class DeviceKind : uint32_t { kBlock = 1, kNet = 2 };

struct DeviceConfig {
  DeviceKind kind = DeviceKind::kBlock;
  bool read_only = false;           // of a disk
  std::array<uint8_t, 6> mac = {};  // of a network
  friend bool operator==(const DeviceConfig&, const DeviceConfig&) = default;
};

// A disk as the command line has it: FILE, or FILE,read-only.
struct DiskOption {
  std::string path;
  bool read_only = false;
  friend bool operator==(const DiskOption&, const DiskOption&) = default;
};

// The name of device i's descriptor in a migration.
inline std::string DeviceFdName(size_t i) { return "virtio." + std::to_string(i); }

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_DEVICE_CONFIG_H_
