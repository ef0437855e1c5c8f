// SPDX-License-Identifier: Apache-2.0
//
// The CONFIG file of a migration. Promises: a file that can still change is refused; what is read
// keeps the protocol's bounds, and written again and read again it is the same.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvmglue/status_reason.h"
#include "tools/fuzz/fuzz_target.h"
#include "vmm/agent/protocol.h"
#include "vmm/reference/state_samples.h"
#include "vmm/reference/vm_config.h"

namespace rehome::fuzz {
namespace {

constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct File {
  uint8_t without_seals;  // which of the four are missing, as bits
  uint8_t keep_checksums;
};

UniqueFd MakeFile(const Bytes& bytes, int seals) {
  UniqueFd fd(memfd_create("fuzz-config", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REHOME_PROMISE(write(fd.borrow().raw(), bytes.data(), bytes.size()) ==
                 static_cast<ssize_t>(bytes.size()));
  REHOME_PROMISE(fcntl(fd.borrow().raw(), F_ADD_SEALS, seals) == 0);
  return fd;
}

void CheckConfig(const VmConfig& config) {
  REHOME_PROMISE(config.vm_id.size() < REHOME_ID_SIZE);
  REHOME_PROMISE(!config.cpuid.empty() && config.cpuid.size() <= REHOME_MAX_VCPUS);
  REHOME_PROMISE(config.devices.size() <= kMaxDevices);
  for (const auto& cpuid : config.cpuid) REHOME_PROMISE(cpuid.size() <= kMaxCpuidBytes);
  const auto file = WriteVmConfig(config);
  REHOME_PROMISE(file.ok());
  const auto again = ReadVmConfig(file->borrow());
  REHOME_PROMISE(again.ok() && *again == config);
}

Seed MakeSeed(const char* name, size_t vcpus, size_t cpuid_bytes,
              const std::vector<DeviceConfig>& devices = {}) {
  VmConfig config{.vm_id = "web-1", .vm_type = VmType::kDefault, .ram_bytes = 64 << 20};
  if (!devices.empty()) config.guest = GuestKind::kLinux;
  config.devices = devices;
  config.cpuid.assign(vcpus, Bytes(cpuid_bytes, std::byte{1}));
  const auto bytes = EncodeVmConfig(config);
  REHOME_PROMISE(bytes.ok());
  Seed seed{.name = name, .bytes = {}};
  Append(seed.bytes, File{});
  AppendBytes(seed.bytes, *bytes);
  return seed;
}

}  // namespace

// A File, then what is in it.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const File terms = in.Take<File>();
  Bytes bytes(in.rest().begin(), in.rest().end());
  if (terms.keep_checksums % 2 == 0) RepairChecksums(bytes);
  const int all[] = {F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL};
  int seals = kSeals;
  for (int i = 0; i < 4; ++i) {
    if ((terms.without_seals >> i & 1) != 0) seals &= ~all[i];
  }
  const UniqueFd file = MakeFile(bytes, seals);
  const auto config = ReadVmConfig(file.borrow());
  if (!config.ok()) {
    REHOME_PROMISE(!ReasonOf(config.status()).empty());
    REHOME_PROMISE(seals == kSeals || ReasonOf(config.status()) == "CONFIG_NOT_SEALED");
    return false;
  }
  REHOME_PROMISE(seals == kSeals);
  CheckConfig(*config);
  return true;
}

std::vector<Seed> Seeds() {
  return {MakeSeed("one-vcpu", 1, 48), MakeSeed("four-vcpus", 4, 88),
          MakeSeed("linux", 2, 48, {{.kind = DeviceKind::kBlock}, {.kind = DeviceKind::kNet}})};
}

}  // namespace rehome::fuzz
