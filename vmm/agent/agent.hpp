// SPDX-License-Identifier: Apache-2.0
//
// The agent library for VMMs in C++: virtual functions instead of a table of pointers, strings
// instead of buffers, and nothing else. libstdc++ only. The contracts are those of rehome_agent.h,
// which each comment here abbreviates; docs/vmm-authors.md walks through them.
//
// No exception may leave a handler: it would have to pass through C (the program is terminated).
#ifndef REHOME_VMM_AGENT_AGENT_HPP_
#define REHOME_VMM_AGENT_AGENT_HPP_

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/agent/rehome_agent.h"

namespace rehome {

// What a handler answers: yes, or no with the reason that the control plane will read.
class AgentAnswer {
 public:
  static AgentAnswer Yes() { return AgentAnswer(REHOME_REFUSED_NONE, ""); }
  static AgentAnswer No(rehome_refusal reason, std::string text) {
    return AgentAnswer(reason, std::move(text));
  }

  bool yes() const { return reason_ == REHOME_REFUSED_NONE; }
  rehome_refusal reason() const { return reason_; }
  const std::string& text() const { return text_; }

 private:
  AgentAnswer(rehome_refusal reason, std::string text) : reason_(reason), text_(std::move(text)) {}

  rehome_refusal reason_;
  std::string text_;
};

// What the VMM does in each step. Called on the agent's thread, one at a time, possibly before
// Agent::Start() has returned.
class AgentHandler {
 public:
  virtual ~AgentHandler() = default;

  // ---- source ----
  virtual AgentAnswer Describe(bool hold, rehome_vm* vm) = 0;
  // `state_format`: one that Describe() offered.
  virtual AgentAnswer ArmSource(rehome_block*, uint32_t /*state_format*/) {
    return AgentAnswer::Yes();
  }
  virtual AgentAnswer Quiesce(rehome_block*) { return AgentAnswer::Yes(); }
  // Blackout.
  virtual AgentAnswer PauseAndSave(rehome_block* block, uint64_t* size) = 0;
  virtual uint64_t LayoutDigest() = 0;
  virtual void Resume() = 0;
  virtual void HandedOver() {}
  virtual void Released() = 0;

  // ---- target ----
  struct Terms {
    uint32_t strategy;      // rehome_strategy
    uint32_t fence_policy;  // rehome_fence_policy
  };
  virtual AgentAnswer Prepare(const Terms& terms, const rehome_vm& source, rehome_block* block,
                              rehome_vm* target) = 0;
  virtual AgentAnswer ArmTarget(rehome_block*) { return AgentAnswer::Yes(); }

  // ---- both ----
  // 0: alive. -EIO: dead. Another negative errno: it could not be asked.
  virtual int ProbeVm() = 0;
  // The owner of the guest drops what Describe() held; a target exits.
  virtual void Cancelled() = 0;
};

struct AgentOptions {
  int connection_fd = -1;   // taken over by Start() if it succeeds
  std::string socket_path;  // empty: the inherited connection only
  rehome_role role = REHOME_ROLE_OWNER;
  uint32_t features = 0;
  uint32_t state_format_write = 0, state_format_read_min = 0, state_format_read_max = 0;
  std::string vmm_name, vmm_version;
  rehome_trace* trace = nullptr;  // outlives the agent; null: none
};

class Agent {
 public:
  // Null and errno on failure. `handler` must outlive the agent.
  static std::unique_ptr<Agent> Start(const AgentOptions& options, AgentHandler* handler) {
    std::unique_ptr<Agent> agent(new Agent());
    rehome_agent_config config = {};
    config.connection_fd = options.connection_fd;
    config.socket_path = options.socket_path.empty() ? nullptr : options.socket_path.c_str();
    config.role = options.role;
    config.features = options.features;
    config.state_format_write = options.state_format_write;
    config.state_format_read_min = options.state_format_read_min;
    config.state_format_read_max = options.state_format_read_max;
    config.vmm_name = options.vmm_name.c_str();
    config.vmm_version = options.vmm_version.c_str();
    config.trace = options.trace;
    agent->agent_ = rehome_agent_start(&config, &Ops(), handler);
    if (agent->agent_ == nullptr) return nullptr;
    return agent;
  }

  // rehome_agent_stop(). Not from a handler.
  ~Agent() { rehome_agent_stop(agent_); }
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // 0 or a negative errno, as in rehome_agent.h.
  int Register(const rehome_register& vm) { return rehome_agent_register(agent_, &vm); }
  int SendEvent(rehome_event_kind kind, const std::string& text) {
    return rehome_agent_send_event(agent_, kind, text.c_str());
  }

  // The target's blackout, from its vCPU threads.
  int TargetWait(uint64_t spin_ns) { return rehome_target_wait(agent_, spin_ns); }
  int TargetClaim() { return rehome_target_claim(agent_); }
  int TargetMayMove() { return rehome_target_may_move(agent_); }
  int TargetCommit() { return rehome_target_commit(agent_); }
  int TargetRefuse(const std::string& text) { return rehome_target_refuse(agent_, text.c_str()); }
  int TargetRun() { return rehome_target_run(agent_); }
  int TargetFirstRun(const rehome_register& vm) {
    return rehome_target_first_run(agent_, &vm, nullptr);
  }
  int TargetFirstRunFailed(const std::string& failure) {
    return rehome_target_first_run(agent_, nullptr, failure.c_str());
  }

 private:
  Agent() = default;

  static AgentHandler& Self(void* opaque) { return *static_cast<AgentHandler*>(opaque); }

  static int Fill(const AgentAnswer& answer, rehome_error* error) noexcept {
    if (answer.yes()) return 0;
    error->refusal = answer.reason();
    std::snprintf(error->text, sizeof(error->text), "%s", answer.text().c_str());
    return -ECANCELED;
  }

  static const rehome_agent_ops& Ops() {
    static const rehome_agent_ops kOps = MakeOps();
    return kOps;
  }

  static rehome_agent_ops MakeOps() {
    rehome_agent_ops ops = {};
    AddSourceOps(&ops);
    ops.prepare = [](void* opaque, uint32_t strategy, uint32_t fence_policy,
                     const rehome_vm* source, rehome_block* block, rehome_vm* target,
                     rehome_error* error) noexcept {
      return Fill(Self(opaque).Prepare({strategy, fence_policy}, *source, block, target), error);
    };
    ops.arm_target = [](void* opaque, rehome_block* block, rehome_error* error) noexcept {
      return Fill(Self(opaque).ArmTarget(block), error);
    };
    ops.probe_vm = [](void* opaque) noexcept { return Self(opaque).ProbeVm(); };
    ops.cancelled = [](void* opaque) noexcept { Self(opaque).Cancelled(); };
    return ops;
  }

  static void AddSourceOps(rehome_agent_ops* ops) {
    ops->describe = [](void* opaque, int hold, rehome_vm* vm, rehome_error* error) noexcept {
      return Fill(Self(opaque).Describe(hold != 0, vm), error);
    };
    ops->arm_source = [](void* opaque, rehome_block* block, uint32_t state_format,
                         rehome_error* error) noexcept {
      return Fill(Self(opaque).ArmSource(block, state_format), error);
    };
    ops->quiesce = [](void* opaque, rehome_block* block, rehome_error* error) noexcept {
      return Fill(Self(opaque).Quiesce(block), error);
    };
    ops->pause_and_save = [](void* opaque, rehome_block* block, uint64_t* size,
                             rehome_error* error) noexcept {
      return Fill(Self(opaque).PauseAndSave(block, size), error);
    };
    ops->layout_digest = [](void* opaque) noexcept { return Self(opaque).LayoutDigest(); };
    ops->resume = [](void* opaque) noexcept { Self(opaque).Resume(); };
    ops->handed_over = [](void* opaque) noexcept { Self(opaque).HandedOver(); };
    ops->released = [](void* opaque) noexcept { Self(opaque).Released(); };
  }

  rehome_agent* agent_ = nullptr;
};

// Copies an identifier into one of the fixed fields; false if it does not fit.
template <size_t kSize>
bool CopyId(char (&to)[kSize], std::string_view from) {
  if (from.size() >= kSize) return false;
  for (size_t i = 0; i < kSize; i++) to[i] = i < from.size() ? from[i] : '\0';
  return true;
}

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_AGENT_HPP_
