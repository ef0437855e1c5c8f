// SPDX-License-Identifier: Apache-2.0
//
// A VM with all that belongs to it, and the two ways to get one: with a new guest, or around the
// memory of a guest that runs elsewhere.
#ifndef REHOME_VMM_REFERENCE_MACHINE_H_
#define REHOME_VMM_REFERENCE_MACHINE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/kvm_syscalls.h"
#include "kvmglue/link_abi.h"
#include "kvmglue/vcpu.h"
#include "kvmglue/vm.h"
#include "vmm/agent/trace.h"
#include "vmm/reference/devices.h"
#include "vmm/reference/guest_memory_reader.h"
#include "vmm/reference/guest_ram.h"
#include "vmm/reference/linux/linux_loader.h"
#include "vmm/reference/options.h"
#include "vmm/reference/vm_config.h"

namespace rehome {

// Where a machine is built.
struct Host {
  KvmSyscalls& kernel;  // outlives every machine
  KernelKind kind = KernelKind::kKvm;
  LinkAbi link_abi;
  size_t serial_depth = kSerialFifoMax;  // of the serial port of this VMM's version
  bool has_linux = true;                 // this VMM's version runs Linux guests
  bool sync_regs = true;                 // without: as Vm::DisableSyncRegs()
  rehome_trace* trace = nullptr;         // where `kernel` notes its calls; null: nowhere
};

// What a target has received of a VM, checked for its form only.
struct ReceivedVm {
  VmConfig config;
  RamAccess access = RamAccess::kMapped;
  std::vector<RamSlot> slots;
  std::vector<UniqueFd> memory;
  std::unique_ptr<Console> console;  // held
  std::vector<UniqueFd> devices;     // of config.devices, in that order
};

class Machine {
 public:
  // A VM with the built-in guest or a Linux, ready to run. FAILED_PRECONDITION / GUEST_UNLOADABLE
  // for SNP and TDX on a real kernel: this VMM has no launch for them; GUEST_UNSUPPORTED for Linux
  // where the version has none; INVALID_ARGUMENT / TOO_MANY_VCPUS, before a VM is made. Errors of
  // everything that it is built from.
  static absl::StatusOr<std::unique_ptr<Machine>> Start(const Host& host,
                                                        const GuestOptions& options);
  // A VM around the memory of another, to be restored. Nothing of the guest's memory is touched and
  // no memory attribute is set. GUEST_UNSUPPORTED as above.
  static absl::StatusOr<std::unique_ptr<Machine>> Prepare(const Host& host, ReceivedVm received);

  const VmConfig& config() const { return config_; }
  uint32_t vcpu_count() const { return static_cast<uint32_t>(vcpus_.size()); }
  Vm& vm() { return *vm_; }
  std::vector<std::unique_ptr<Vcpu>>& vcpus() { return vcpus_; }
  GuestRam& ram() { return *ram_; }
  Devices& devices() { return *devices_; }
  // Makes KVM's page tables for what the memory holds already: by PreFault() where KVM has that,
  // else by PageWarmer, for a built-in guest. Of a machine from Prepare() on the same `kernel`,
  // whose memory is mapped, before its vCPUs run. Returns the bytes done. Errors of these two and
  // of Vcpu::LearnState().
  absl::StatusOr<uint64_t> WarmUp(KvmSyscalls& kernel, std::chrono::milliseconds budget);

  // The memory of a guest that has ended, for GuestChecker; valid as long as this object. Private
  // memory of a real kernel the guest's own vCPU copies out, which is a way in for tests
  // (SW_PROTECTED protects nothing). FAILED_PRECONDITION / MEMORY_PRIVATE for other types and
  // beyond 512 MiB; errors of CopyOutOfPrivate().
  absl::StatusOr<std::unique_ptr<GuestMemoryReader>> OpenForCheck();
  // The configuration as a sealed file, for the next VMM.
  BorrowedFd config_file() const { return config_file_.borrow(); }

 private:
  Machine() = default;
  absl::Status CreateVm(const Host& host);
  absl::Status CreateVcpus();
  absl::Status CreateDevices(const Host& host, std::unique_ptr<Console> console,
                             std::vector<DevicePart> parts);
  absl::Status LoadGuestForKvm(const GuestOptions& options);
  absl::Status LoadPrivateGuest(const GuestOptions& options);
  absl::Status LoadGuestForSim(const GuestOptions& options);
  std::vector<MappedRange> MappedRanges() const;  // of RAM, by address; REQUIRES: mapped
  absl::Status LoadLinuxGuest(const LinuxBoot& boot);
  absl::Status SealMemory();
  absl::Status MakePrivate();
  uint32_t FreeSlot() const;
  absl::StatusOr<uint64_t> PreFaultResident(KvmSyscalls& kernel, std::chrono::milliseconds budget);
  absl::StatusOr<uint64_t> TouchResident(std::chrono::milliseconds budget);

  VmConfig config_;
  UniqueFd config_file_;
  // Memory goes after the VM that uses it.
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::unique_ptr<Devices> devices_;
  std::vector<std::byte> check_copy_;  // OpenForCheck()
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_MACHINE_H_
