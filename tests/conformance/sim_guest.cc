// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/sim_guest.h"

#include "tests/conformance/bench.h"

namespace rehome::conformance {

SimExit SimGuest::Step(SimVcpuContext& vcpu) {
  const Program program = static_cast<Program>(vcpu.regs.rip - kCodeGpa);
  const SimAccess access = program == Program::kLoad ? SimAccess::kRead : SimAccess::kWrite;
  auto* const word = reinterpret_cast<uint32_t*>(
      vcpu.Translate(vcpu.sregs.ds.base + vcpu.regs.rbx, sizeof(uint32_t), access));
  if (word == nullptr) return SimExit::MemoryFault();
  switch (program) {
    case Program::kStore:
      __atomic_store_n(word, static_cast<uint32_t>(vcpu.regs.rax), __ATOMIC_RELAXED);
      return SimExit::Halt();
    case Program::kLoad:
      vcpu.regs.rax = __atomic_load_n(word, __ATOMIC_RELAXED);
      return SimExit::Halt();
    case Program::kCount:
      __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
      return SimExit::Continue();
  }
  return SimExit::Shutdown();
}

}  // namespace rehome::conformance
