// SPDX-License-Identifier: Apache-2.0
//
// What runs in place of guest code on the simulated kernel. KVM_RUN calls Step() until a step
// leaves the guest or immediate_exit is set. A "guest" is then a C++ class whose whole state is
// registers and guest memory, so that it goes on wherever those are moved.
#ifndef REHOME_KVMGLUE_SIM_SIMULATED_CPU_H_
#define REHOME_KVMGLUE_SIM_SIMULATED_CPU_H_

#include <cstddef>
#include <cstdint>

#include "kvmglue/kvm_abi.h"

namespace rehome {

enum class SimAccess { kRead, kWrite };

// How a step ended.
struct SimExit {
  enum class Kind {
    kContinue,     // go on with the next step
    kPortOut,      // KVM_EXIT_IO
    kPortIn,       // KVM_EXIT_IO; the answer is in rax when the next step begins
    kHalt,         // KVM_EXIT_HLT, or waits in the kernel if that has the irqchip
    kShutdown,     // KVM_EXIT_SHUTDOWN: triple fault
    kMemoryFault,  // Translate() returned nullptr and the step gives up; its registers are dropped
  };
  Kind kind = Kind::kContinue;
  uint16_t port = 0;
  uint8_t width = 1;   // 1, 2 or 4 bytes
  uint32_t value = 0;  // kPortOut

  static SimExit Continue() { return {}; }
  static SimExit PortOut(uint16_t port, uint8_t width, uint32_t value) {
    return {Kind::kPortOut, port, width, value};
  }
  static SimExit PortIn(uint16_t port, uint8_t width) { return {Kind::kPortIn, port, width, 0}; }
  static SimExit Halt() { return {Kind::kHalt}; }
  static SimExit Shutdown() { return {Kind::kShutdown}; }
  static SimExit MemoryFault() { return {Kind::kMemoryFault}; }
};

// The vCPU during one step. The registers are a copy: they become the vCPU's when the step returns,
// in one store, so that a VMM killed inside a step leaves the registers of the step before. For
// kPortOut and kPortIn they are the registers *after* the instruction; as on real KVM, they take
// effect with the next KVM_RUN, so a VMM that saves registers must complete pending I/O first.
class SimVcpuContext {
 public:
  virtual ~SimVcpuContext() = default;

  kvm_regs regs = {};
  kvm_sregs sregs = {};

  // What KVM_CREATE_VCPU was given.
  virtual uint32_t id() const = 0;
  // What RDTSC gives in the guest: the host's counter plus this vCPU's offset.
  virtual uint64_t tsc() const = 0;
  // Host address of [gpa, gpa + length), valid until the step returns, or nullptr: then return
  // SimExit::MemoryFault() and be ready to be asked for the same step again. The range must not
  // cross a slot, nor the border between private and shared memory. kWrite allows reading, too.
  virtual std::byte* Translate(uint64_t gpa, size_t length, SimAccess access) = 0;
};

// Guest behaviour. Step() is called by any vCPU thread, for different vCPUs at the same time. It
// must return soon (well under 1 ms): KVM_RUN sees immediate_exit only between steps, and deleting
// a memslot waits for the end of steps under way.
class SimulatedCpu {
 public:
  virtual ~SimulatedCpu() = default;
  virtual SimExit Step(SimVcpuContext& vcpu) = 0;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_SIMULATED_CPU_H_
