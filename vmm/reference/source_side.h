// SPDX-License-Identifier: Apache-2.0
//
// What a VMM that owns a guest does in a migration: describe the VM, stop it, save it, go on or let
// go. Called by the agent library on its thread (rehome_agent.h has the protocol).
#ifndef REHOME_VMM_REFERENCE_SOURCE_SIDE_H_
#define REHOME_VMM_REFERENCE_SOURCE_SIDE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm_state.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/test_hooks.h"
#include "vmm/reference/vcpu_crew.h"
#include "vmm/reference/version.h"

namespace rehome {

// What both sides say of a machine: its name, type and size, its slots, and the descriptors of VM
// and memory, which stay the machine's.
void DescribeBindings(Machine& machine, rehome_vm& vm);

// Not thread-safe: the agent library calls one thing at a time.
class SourceSide : private PausedWork {
 public:
  // Everything must outlive the object.
  SourceSide(Machine& machine, VcpuCrew& crew, FormatRange state_formats, const TestHooks& hooks);

  // Fills `vm`; its descriptors stay the machine's. With `hold` the console keeps its sockets from
  // now on. While it does they are part of the description. Asks the kernel nothing: the VM may be
  // dead.
  void Describe(bool hold, rehome_vm& vm);
  uint64_t LayoutDigest() const;

  // Makes room for the state in one of the formats that were described, so that the blackout need
  // not. From now on devices take in no more than fits it.
  void Arm(uint32_t state_format);
  // With the guest running: its devices finish what they have in hand and take no more, and what
  // they hold fits the format. DEADLINE_EXCEEDED / DEVICE_BUSY if they need more than half of the
  // claim deadline; they go on then.
  absl::Status Quiesce(const rehome_block& block);
  // Stops the vCPUs and writes the state into the block; returns its size. On an error the vCPUs
  // are stopped nevertheless. FAILED_PRECONDITION / GUEST_ENDED, errors of StateWriter, or what
  // saving reported.
  absl::StatusOr<uint64_t> PauseAndSave(rehome_block& block);

  // The guest runs on here: after PauseAndSave(), or without it.
  void Resume();
  void Cancelled();

 private:
  // What the vCPU threads work with in the blackout, made in Arm().
  struct Buffers {
    Buffers(uint32_t format, uint32_t vcpu_count);
    StateWriter writer;
    std::vector<VcpuState> vcpus;
    VmState vm;
    DeviceState devices;
    std::vector<absl::Status> results;  // one per vCPU; of the rest: the last one
    size_t size = 0;
  };

  // PausedWork, on the vCPU threads.
  void OnAllStopped(bool guest_ended) override;
  void Run(uint32_t index) override;
  absl::Status SaveVcpu(uint32_t index);
  absl::Status SaveTheRest();
  void Announce();

  Machine& machine_;
  VcpuCrew& crew_;
  const FormatRange state_formats_;
  const TestHooks hooks_;
  std::unique_ptr<Buffers> buffers_;
  uint64_t described_digest_ = 0;
  absl::Status frozen_;       // what became of the devices' pause
  bool guest_ended_ = false;  // written before, read after the threads of the pause have met
  rehome_block* block_ = nullptr;
  std::span<std::byte> area_;
  std::atomic<uint32_t> saved_{0};
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_SOURCE_SIDE_H_
