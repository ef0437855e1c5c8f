// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vm_config.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/sections.h"

namespace rehome {
namespace {

constexpr uint64_t kConfigMagic = 0x314749464e4352ull;  // "RCNFIG1"
// Changes when a reader would misunderstand. The payload guest's is the first one for ever, so that
// it goes to older VMMs.
constexpr uint32_t kPayloadFormat = 1;
constexpr uint32_t kLinuxFormat = 2;  // with a platform section
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

enum SectionType : uint32_t { kMachine = 1, kCpuid = 2, kPlatform = 3 };

struct MachineSection {
  char vm_id[REHOME_ID_SIZE];  // NUL-terminated
  uint32_t vm_type;
  uint32_t vcpu_count;
  uint64_t ram_bytes;
};
static_assert(sizeof(MachineSection) == 80);

struct DeviceEntry {
  uint32_t kind;  // DeviceKind
  uint8_t read_only;
  uint8_t mac[6];
  uint8_t reserved[5];
};
static_assert(sizeof(DeviceEntry) == 16);

struct PlatformSection {
  uint32_t guest;  // GuestKind
  uint32_t device_count;
  DeviceEntry devices[kMaxDevices];
};
static_assert(sizeof(PlatformSection) == 8 + kMaxDevices * sizeof(DeviceEntry));

absl::Status Malformed(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "STATE_MALFORMED", what);
}

absl::Status TooLarge(size_t size) {
  return MakeStatus(absl::StatusCode::kResourceExhausted, "CONFIG_TOO_LARGE",
                    absl::StrCat("configuration of ", size, " bytes"));
}

absl::Status WriteAll(BorrowedFd fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd.raw(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return OsError("write", "configuration", errno);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

PlatformSection PackPlatform(const VmConfig& config) {
  PlatformSection section = {};
  section.guest = static_cast<uint32_t>(config.guest);
  for (const DeviceConfig& device : config.devices) {
    DeviceEntry& entry = section.devices[section.device_count++];
    entry.kind = static_cast<uint32_t>(device.kind);
    entry.read_only = device.read_only ? 1 : 0;
    std::copy(device.mac.begin(), device.mac.end(), entry.mac);
  }
  return section;
}

absl::Status UnpackPlatform(const PlatformSection& section, VmConfig& config) {
  if (section.guest != static_cast<uint32_t>(GuestKind::kLinux) ||
      section.device_count > kMaxDevices) {
    return Malformed("the platform section");
  }
  config.guest = GuestKind::kLinux;
  for (uint32_t i = 0; i < section.device_count; ++i) {
    const DeviceEntry& entry = section.devices[i];
    if (entry.kind != static_cast<uint32_t>(DeviceKind::kBlock) &&
        entry.kind != static_cast<uint32_t>(DeviceKind::kNet)) {
      return MakeStatus(absl::StatusCode::kUnimplemented, "DEVICE_UNKNOWN",
                        absl::StrCat("this VMM has no device of kind ", entry.kind));
    }
    const bool is_disk = entry.kind == static_cast<uint32_t>(DeviceKind::kBlock);
    if (entry.read_only > (is_disk ? 1 : 0)) return Malformed("a device that is read-only");
    DeviceConfig device = {.kind = static_cast<DeviceKind>(entry.kind),
                           .read_only = entry.read_only != 0};
    std::copy(std::begin(entry.mac), std::end(entry.mac), device.mac.begin());
    config.devices.push_back(device);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> EncodeVmConfig(const VmConfig& config) {
  MachineSection machine = {};
  if (config.vm_id.size() >= sizeof(machine.vm_id)) return Malformed("the VM's name is too long");
  std::copy(config.vm_id.begin(), config.vm_id.end(), machine.vm_id);
  machine.vm_type = static_cast<uint32_t>(config.vm_type);
  machine.vcpu_count = static_cast<uint32_t>(config.cpuid.size());
  machine.ram_bytes = config.ram_bytes;

  std::vector<SectionSpec> specs = {{kMachine, 0, sizeof(machine)}};
  for (uint32_t i = 0; i < config.cpuid.size(); ++i) {
    specs.push_back({kCpuid, i, config.cpuid[i].size()});
  }
  const bool has_platform = config.guest != GuestKind::kPayload;
  if (config.devices.size() > (has_platform ? kMaxDevices : 0)) return Malformed("its devices");
  if (has_platform) specs.push_back({kPlatform, 0, sizeof(PlatformSection)});
  SectionWriter writer(kConfigMagic, has_platform ? kLinuxFormat : kPayloadFormat, specs);
  if (writer.capacity() > REHOME_MAX_CONFIG) return TooLarge(writer.capacity());
  std::vector<std::byte> bytes(writer.capacity());
  absl::Status status = writer.Put(bytes, 0, std::as_bytes(std::span(&machine, 1)));
  for (size_t i = 0; status.ok() && i < config.cpuid.size(); ++i) {
    status = writer.Put(bytes, 1 + i, config.cpuid[i]);
  }
  if (status.ok() && has_platform) {
    const PlatformSection platform = PackPlatform(config);
    status = writer.Put(bytes, specs.size() - 1, std::as_bytes(std::span(&platform, 1)));
  }
  if (!status.ok()) return status;
  bytes.resize(writer.Finish(bytes));
  return bytes;
}

absl::StatusOr<VmConfig> DecodeVmConfig(const std::vector<std::byte>& bytes) {
  const auto sections = SectionReader::Open(kConfigMagic, bytes);
  if (!sections.ok()) return sections.status();
  const uint32_t format = sections->format();
  if (format != kPayloadFormat && format != kLinuxFormat) {
    return Malformed("unknown format of configuration");
  }
  const size_t others = format == kPayloadFormat ? 1 : 2;  // sections that are no vCPU's
  MachineSection machine;
  absl::Status status =
      sections->CopyExact(kMachine, 0, std::as_writable_bytes(std::span(&machine, 1)));
  if (!status.ok()) return status;
  const auto type = VmTypeFromNumber(machine.vm_type);
  const size_t id_length = strnlen(machine.vm_id, sizeof(machine.vm_id));
  if (!type || id_length == sizeof(machine.vm_id)) return Malformed("the machine section");
  if (machine.vcpu_count == 0 || machine.vcpu_count > REHOME_MAX_VCPUS ||
      machine.vcpu_count + others != sections->entries().size()) {
    return Malformed("the number of vCPUs");
  }

  VmConfig config{.vm_id = std::string(machine.vm_id, id_length),
                  .vm_type = *type,
                  .ram_bytes = machine.ram_bytes};
  for (uint32_t i = 0; i < machine.vcpu_count; ++i) {
    std::vector<std::byte> cpuid(kMaxCpuidBytes);
    const auto length = sections->Copy(kCpuid, i, cpuid);
    if (!length.ok()) return length.status();
    cpuid.resize(*length);
    config.cpuid.push_back(std::move(cpuid));
  }
  if (format == kPayloadFormat) return config;
  PlatformSection platform;
  status = sections->CopyExact(kPlatform, 0, std::as_writable_bytes(std::span(&platform, 1)));
  if (status.ok()) status = UnpackPlatform(platform, config);
  if (!status.ok()) return status;
  return config;
}

absl::StatusOr<UniqueFd> WriteVmConfig(const VmConfig& config) {
  const auto bytes = EncodeVmConfig(config);
  if (!bytes.ok()) return bytes.status();
  UniqueFd fd(memfd_create("rehome-config", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return OsError("memfd_create", "configuration", errno);
  absl::Status status = WriteAll(fd.borrow(), *bytes);
  if (!status.ok()) return status;
  if (fcntl(fd.borrow().raw(), F_ADD_SEALS, kSeals) < 0) {
    return OsError("fcntl(F_ADD_SEALS)", "configuration", errno);
  }
  return fd;
}

absl::StatusOr<VmConfig> ReadVmConfig(BorrowedFd fd) {
  const int seals = fcntl(fd.raw(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "CONFIG_NOT_SEALED",
                      "the configuration can still change");
  }
  const auto identity = Identify(fd);
  if (!identity.ok()) return identity.status();
  if (identity->size_bytes > REHOME_MAX_CONFIG) return TooLarge(identity->size_bytes);
  std::vector<std::byte> bytes(identity->size_bytes);
  const ssize_t count = pread(fd.raw(), bytes.data(), bytes.size(), 0);
  if (count < 0) return OsError("pread", "configuration", errno);
  bytes.resize(static_cast<size_t>(count));
  return DecodeVmConfig(bytes);
}

}  // namespace rehome
