// SPDX-License-Identifier: Apache-2.0
//
// What a VMM that was started to take a guest over does: build the same VM around the same memory,
// wait for the state, and, in the blackout, restore it and run.
#ifndef REHOME_VMM_REFERENCE_TARGET_SIDE_H_
#define REHOME_VMM_REFERENCE_TARGET_SIDE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "kvmglue/vcpu_state.h"
#include "kvmglue/vm_state.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/test_hooks.h"
#include "vmm/reference/vcpu_crew.h"
#include "vmm/reference/vmm_events.h"

namespace rehome {

// What the source said in PREPARE, sorted; owns its descriptors.
struct Proposal {
  ReceivedVm vm;
  // With MOVE, for as long as that may be needed. The kernel ends a binding with the last
  // descriptor of its guest_memfd file, and MOVE compares bindings: if source and daemon die, these
  // are the last.
  std::vector<UniqueFd> source_memory;
  UniqueFd source_vm;  // MOVE strategies only
  uint32_t strategy = 0;
  uint32_t state_format = 0;

  bool moves() const {
    return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
  }
};

// Takes the descriptors of `source` in any case. INVALID_ARGUMENT / PROPOSAL_INVALID for what does
// not fit together, UNIMPLEMENTED / DEVICE_UNKNOWN for a named descriptor that this VMM has no use
// for, or errors of ReadVmConfig() and Console::Adopt().
absl::StatusOr<Proposal> ReadProposal(uint32_t strategy, const rehome_vm& source);

// The take-over of one guest by one machine. Run() is called by the vCPU threads; everything else
// comes before.
class TargetSide : public TakeOverWork {
 public:
  struct Settings {
    uint64_t spin_ns = 0;  // busy-wait for the state before sleeping
    TestHooks hooks;
  };
  // `agent` carries the migration; everything must outlive the object.
  TargetSide(Machine& machine, const Proposal& proposal, rehome_agent* agent, rehome_block& block,
             VmmEvents& events, const Settings& settings);

  bool Run(uint32_t index) override;

 private:
  // Where the threads are; a futex word, only ever grows.
  enum Stage : uint32_t { kWaiting = 0, kMayRestore = 1, kMayRun = 2, kOff = 3 };

  bool Lead(int wait_result);
  bool Follow(uint32_t index);
  // The steps of Lead(), in order. An error has been reported to the agent already.
  bool Claim();
  bool MoveContext();
  bool Restore();
  bool Commit();
  bool EnterRunning();

  // The misbehaviour of that name. Never OK: UNKNOWN / EARLY_RUN says what came of it.
  absl::Status RunEarly();

  absl::Status RestoreVcpu(uint32_t index);
  absl::Status RestoreVm();
  absl::Status RestoreDevices();
  absl::Status AwaitRestored();
  std::span<const std::byte> state() const;
  absl::StatusOr<StateReader> OpenState() const;

  bool Refuse(const absl::Status& why);
  bool Off(const std::string& why);
  void Advance(Stage stage);

  Machine& machine_;
  const Proposal& proposal_;
  rehome_agent* const agent_;
  rehome_block& block_;
  VmmEvents& events_;
  const Settings settings_;
  const std::chrono::nanoseconds spin_;
  const bool in_turn_;  // without BlackoutStep::kParallel

  // Private copies, made before the blackout.
  std::vector<VcpuState> vcpu_states_;
  std::unique_ptr<VmState> vm_state_;
  DeviceState device_state_;
  std::vector<absl::Status> results_;

  bool committed_ = false;  // thread 0's
  std::atomic<uint32_t> stage_{kWaiting};
  std::atomic<uint32_t> restored_{0};
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_TARGET_SIDE_H_
