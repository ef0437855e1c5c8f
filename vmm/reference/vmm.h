// SPDX-License-Identifier: Apache-2.0
//
// One run of rehome-vmm: a machine, its vCPU threads, the agent, and a main thread that waits for
// what happens to them.
#ifndef REHOME_VMM_REFERENCE_VMM_H_
#define REHOME_VMM_REFERENCE_VMM_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/reference/agent_link.h"
#include "vmm/reference/machine.h"
#include "vmm/reference/options.h"
#include "vmm/reference/source_side.h"
#include "vmm/reference/target_side.h"
#include "vmm/reference/vcpu_crew.h"
#include "vmm/reference/version.h"
#include "vmm/reference/vmm_events.h"

namespace rehome {

// Exit codes of rehome-vmm; kUsageExitCode (2) besides.
inline constexpr int kExitOk = 0;         // the guest ended as it wanted to, was moved, or SIGTERM
inline constexpr int kExitFailed = 1;     // the guest crashed, or something could not be set up
inline constexpr int kExitNotIntact = 3;  // --check-on-exit found the guest damaged

class Vmm : private AgentHandler, private CrewListener {
 public:
  // `signals` is a signalfd of SIGTERM and SIGINT, which every thread must have blocked.
  // `agent_connection` is inherited by a target, else invalid. Everything by reference must outlive
  // the object.
  Vmm(const Options& options, const Host& host, const VmmVersion& version, BorrowedFd signals,
      UniqueFd agent_connection);
  ~Vmm() override;

  // Starts a guest, or takes one over, and stays with it. Returns the exit code.
  int Run();

 private:
  enum class Guest : uint8_t { kNone, kHere, kHandedOver };

  absl::Status Start();
  absl::Status StartOwner();
  absl::Status StartTarget();
  absl::Status StartAgent(rehome_role role);
  int Loop();
  // Decides an exit code, or nothing: go on.
  std::optional<int> Handle(const VmmEvent& event);
  void OnGuestRunsHere();
  void WarmUp();
  absl::Status ForgetVcpus();
  void MakeCrew();  // and what a source does with it
  int EndGuest();
  int CheckGuest();
  FormatRange StateFormats() const;  // that this VMM writes for its guest
  rehome_register Registration() const;

  // AgentHandler
  absl::Status Describe(bool hold, rehome_vm& vm) override;
  absl::Status ArmSource(rehome_block& block, uint32_t state_format) override;
  absl::Status Quiesce(rehome_block& block) override;
  absl::StatusOr<uint64_t> PauseAndSave(rehome_block& block) override;
  uint64_t LayoutDigest() override;
  absl::Status ProbeVm() override;
  void Resume() override;
  void HandedOver() override;
  [[noreturn]] void Released() override;
  absl::Status Prepare(rehome_agent* agent, uint32_t strategy, const rehome_vm& source,
                       rehome_block& block, rehome_vm& target) override;
  absl::Status ArmTarget(rehome_block& block) override;
  void Cancelled() override;

  // CrewListener
  void OnGuestEnd(GuestEnd end, const std::string& text) override;
  void OnFirstRun() override;

  const Options& options_;
  const Host& host_;
  const VmmVersion& version_;
  const BorrowedFd signals_;
  UniqueFd agent_connection_;
  std::unique_ptr<VmmEvents> events_;

  // Made by StartOwner(), or in Prepare() on the agent's thread; used afterwards.
  std::unique_ptr<Machine> machine_;
  std::optional<Proposal> proposal_;
  std::unique_ptr<TargetSide> target_side_;
  std::unique_ptr<VcpuCrew> crew_;
  std::unique_ptr<SourceSide> source_side_;
  UniqueFd misbehaviour_prop_;

  std::atomic<Guest> guest_{Guest::kNone};
  std::unique_ptr<AgentLink> agent_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VMM_H_
