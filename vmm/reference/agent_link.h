// SPDX-License-Identifier: Apache-2.0
//
// The C++ face of librehome-agent for this VMM: callbacks become virtual functions that return a
// Status, and the agent stops with its owner.
#ifndef REHOME_VMM_REFERENCE_AGENT_LINK_H_
#define REHOME_VMM_REFERENCE_AGENT_LINK_H_

#include <cstdint>
#include <future>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/reference/version.h"

namespace rehome {

// rehome_agent_ops, method by method; see there for what each must do. Called on the library's
// thread.
class AgentHandler {
 public:
  virtual ~AgentHandler() = default;

  virtual absl::Status Describe(bool hold, rehome_vm& vm) = 0;
  virtual absl::Status ArmSource(rehome_block& block, uint32_t state_format) = 0;
  virtual absl::Status Quiesce(rehome_block& block) = 0;
  virtual absl::StatusOr<uint64_t> PauseAndSave(rehome_block& block) = 0;
  virtual uint64_t LayoutDigest() = 0;
  virtual absl::Status ProbeVm() = 0;
  virtual void Resume() = 0;
  virtual void HandedOver() = 0;
  virtual void Released() = 0;

  // `agent` is the one that calls: the handler may not have been told yet.
  virtual absl::Status Prepare(rehome_agent* agent, uint32_t strategy, const rehome_vm& source,
                               rehome_block& block, rehome_vm& target) = 0;
  virtual absl::Status ArmTarget(rehome_block& block) = 0;
  virtual void Cancelled() = 0;
};

class AgentLink {
 public:
  struct Settings {
    rehome_role role = REHOME_ROLE_OWNER;
    UniqueFd connection;            // inherited, or invalid
    std::string socket_path;        // where to connect (again); "": nowhere
    rehome_trace* trace = nullptr;  // for the agent to open; outlives the link
  };
  // UNAVAILABLE / AGENT_START_FAILED. `handler` must outlive the link.
  static absl::StatusOr<std::unique_ptr<AgentLink>> Start(Settings settings,
                                                          const VmmVersion& version,
                                                          AgentHandler& handler);
  // rehome_agent_stop(): a handover under way is decided first. REQUIRES: no other thread is in the
  // library.
  ~AgentLink();

  // For rehome_agent.h. Usable in callbacks as well, also before Start() has returned.
  rehome_agent* agent();

 private:
  explicit AgentLink(AgentHandler& handler);

  AgentHandler& handler_;
  std::promise<rehome_agent*> started_;
  std::shared_future<rehome_agent*> agent_;
  friend struct AgentCallbacks;
};

// How a refusal looks on the wire: the kind from code and reason, the text "REASON: message".
rehome_error RefusalOf(const absl::Status& status);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_AGENT_LINK_H_
