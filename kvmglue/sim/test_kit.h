// SPDX-License-Identifier: Apache-2.0
//
// For the tests of this room: a guest made of one-instruction programs, raw ioctls that return
// "value or -errno" as the kernel's own selftests do.
#ifndef REHOME_KVMGLUE_SIM_TEST_KIT_H_
#define REHOME_KVMGLUE_SIM_TEST_KIT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kvmglue/fd.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/options.h"
#include "kvmglue/sim/simulated_cpu.h"
#include "kvmglue/sim/simulated_kernel.h"
#include "kvmglue/test_process.h"

namespace rehome::sim {

using testing::Child;
using testing::HostPages;
using testing::kTestTimeoutMs;
using testing::NoMoreFds;
using testing::Receive;
using testing::Send;

// RIP says what the guest does. All but kSpin and kCount leave KVM_RUN after one step.
enum class Program : uint64_t {
  kReset = 0xfff0,  // where a vCPU starts: rax += 1, OUT 0x80, rax; for guests whose registers are
                    // secret
  kHalt = 0x1000,
  kStore,  // [rbx] = rcx, HLT
  kLoad,   // rcx = [rbx], HLT
  kSpin,   // rax += 1, for ever
  kCount,  // [rbx] += 1, for ever
  kOut,    // OUT rdx, rax (4 bytes), then kHalt
  kIn,     // IN rdx (1 byte), then kHalt
  kShutdown,
  kReadTsc,  // rax = TSC, rcx = vCPU id, HLT
};

class TestCpu final : public SimulatedCpu {
 public:
  SimExit Step(SimVcpuContext& vcpu) override;
};

struct RunResult {
  int result = 0;  // 0 or -errno
  uint32_t exit_reason = 0;
  uint32_t port_data = 0;
  kvm_regs regs = {};
};

// One simulated kernel with /dev/kvm open.
class TestKernel {
 public:
  explicit TestKernel(SimulatedKernelOptions options = {});

  SimulatedKernel& kernel() { return kernel_; }
  BorrowedFd kvm() const { return kvm_.borrow(); }

  // Value, or -errno.
  long Call(BorrowedFd fd, unsigned long request, void* argument);
  long Call(BorrowedFd fd, unsigned long request, unsigned long number);

  UniqueFd CreateVm(VmType type);
  UniqueFd CreateVcpu(BorrowedFd vm, uint32_t id = 0);
  UniqueFd CreateGuestMemfd(BorrowedFd vm, uint64_t size, uint64_t flags = 0);

  // Each 0, a new fd, or -errno.
  int TryCreateVm(unsigned long type);
  int TryCreateGuestMemfd(BorrowedFd vm, uint64_t size, uint64_t flags);
  int TryLink(BorrowedFd vm, BorrowedFd source, uint64_t flags = 0);
  int TrySetRegion(BorrowedFd vm, const kvm_userspace_memory_region2& region);
  int SetPrivate(BorrowedFd vm, uint64_t gpa, uint64_t size, bool is_private);
  int Move(BorrowedFd destination, BorrowedFd source);

  UniqueFd Link(BorrowedFd vm, BorrowedFd source);
  // Binds [offset, offset + size) of a guest_memfd.
  int Bind(BorrowedFd vm, uint32_t slot, uint64_t gpa, uint64_t size, BorrowedFd guest_memfd,
           uint64_t offset = 0);

  kvm_run* Map(BorrowedFd vcpu);
  // Sets RIP, RBX and RCX, and runs.
  RunResult Run(BorrowedFd vcpu, Program program, uint64_t rbx = 0, uint64_t rcx = 0);
  // KVM_RUN as it is, registers untouched.
  RunResult Resume(BorrowedFd vcpu);
  // Resume() of Program::kReset: what it puts out.
  uint32_t ResumeToOut(BorrowedFd vcpu);

 private:
  TestCpu cpu_;
  SimulatedKernel kernel_;
  UniqueFd kvm_;
};

// A VM with one guest_memfd of kGuestSize at kGuestGpa, private, and vCPUs.
inline constexpr uint64_t kGuestGpa = 0x100000;
inline constexpr uint64_t kGuestSize = 0x10000;
struct Guest {
  UniqueFd vm;
  UniqueFd memory;
  std::vector<UniqueFd> vcpus;
};
Guest MakeGuest(TestKernel& kernel, VmType type, uint32_t vcpus = 1);
// A VM that could take over: linked, bound the same way, with as many vCPUs; nothing is private.
Guest MakeTarget(TestKernel& kernel, VmType type, BorrowedFd memory, uint32_t vcpus = 1);

// Whether `condition` becomes true within kTestTimeoutMs.
bool Eventually(const std::function<bool()>& condition);

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_TEST_KIT_H_
