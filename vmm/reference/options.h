// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_OPTIONS_H_
#define REHOME_VMM_REFERENCE_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kvmglue/vm_type.h"
#include "vmm/reference/device_config.h"
#include "vmm/reference/test_hooks.h"

namespace rehome {

enum class KernelKind : uint8_t { kKvm, kSim };
enum class MemoryKind : uint8_t {
  kAuto,  // what the VM type needs
  kGuestMemfd,
  kMemfd,
};

// What a VM is made of when it starts here. A target takes all of this from the source instead.
struct GuestOptions {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint64_t memory_mib = 64;
  MemoryKind memory_kind = MemoryKind::kAuto;
  uint32_t memories = 1;  // files that RAM consists of
  uint32_t vcpus = 1;
  std::string console;                // path of the socket; "": unplugged
  uint32_t heartbeat_ms = 100;        // 0: none
  uint32_t step_ns = 1000;            // 0: as fast as it goes
  uint64_t working_set_pages = 1024;  // per vCPU; 0: all of RAM
  uint64_t seed = 1;
  // A Linux guest instead of the built-in one, if `linux_image` is not "".
  std::string linux_image;  // file names
  std::string initramfs;    // "": none
  std::string cmdline;      // without what names the devices
  std::vector<DiskOption> disks;
  std::vector<std::string> taps;  // names of interfaces

  bool is_linux() const { return !linux_image.empty(); }
};

inline constexpr char kDefaultCmdline[] = "console=ttyS0";

struct Options {
  bool target = false;
  KernelKind kernel = KernelKind::kKvm;
  uint32_t link_ioctl = 0xd6;
  std::string agent_socket;       // "": cannot be migrated (owner), no reconnect (target)
  uint64_t populate_mib = 16384;  // MAP: at most so much is mapped in advance
  uint32_t warm_ms = 1000;        // MAP: so long KVM's page tables are made in advance
  uint32_t spin_us = 0;           // target: busy-wait for the state before sleeping
  bool check_on_exit = false;     // tell on SIGTERM whether the guest is intact
  std::string sim;                // which kernel to simulate, see kvmglue/sim/options.h
  std::string faults;             // plan for the fault injector; "": none
  std::string fault_page;         // file of a FaultPage; "": none
  TestHooks hooks;
  GuestOptions guest;
};

// What ParseOptions decided: go on, or text to print and an exit code (--help, --version, an
// error).
struct ParsedOptions {
  bool exit_now = false;
  int exit_code = 0;
  std::string text;
  Options options;
};

// Exit code of a command line that makes no sense, as in the rest of the project.
inline constexpr int kUsageExitCode = 2;

// `version` is what --version prints.
ParsedOptions ParseOptions(int argc, const char* const* argv, const std::string& version);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_OPTIONS_H_
