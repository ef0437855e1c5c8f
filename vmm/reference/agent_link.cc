// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/agent_link.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kvmglue/status_reason.h"

namespace rehome {

rehome_error RefusalOf(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  rehome_error error = {};
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      error.refusal = REHOME_REFUSED_MALFORMED;
      break;
    case absl::StatusCode::kUnimplemented:
      error.refusal = REHOME_REFUSED_UNSUPPORTED;
      break;
    case absl::StatusCode::kResourceExhausted:
      error.refusal = REHOME_REFUSED_RESOURCES;
      break;
    case absl::StatusCode::kInternal:
      error.refusal = REHOME_REFUSED_INTERNAL;
      break;
    default:  // absl's enum, not ours
      error.refusal = REHOME_REFUSED_KERNEL;
  }
  if (reason == "STATE_FORMAT_UNSUPPORTED") error.refusal = REHOME_REFUSED_STATE_FORMAT;
  const std::string text = reason + ": " + std::string(status.message());
  const size_t count = std::min(text.size(), sizeof(error.text) - 1);
  std::memcpy(error.text, text.data(), count);
  return error;
}

// The library's side; `opaque` is the AgentLink.
struct AgentCallbacks {
  static AgentHandler& Handler(void* opaque) { return static_cast<AgentLink*>(opaque)->handler_; }

  static int Answer(const absl::Status& status, rehome_error* error) {
    if (status.ok()) return 0;
    *error = RefusalOf(status);
    return -EINVAL;  // the text says more
  }

  static int Describe(void* opaque, int hold, rehome_vm* vm, rehome_error* error) {
    return Answer(Handler(opaque).Describe(hold != 0, *vm), error);
  }
  static int ArmSource(void* opaque, rehome_block* block, uint32_t state_format,
                       rehome_error* error) {
    return Answer(Handler(opaque).ArmSource(*block, state_format), error);
  }
  static int Quiesce(void* opaque, rehome_block* block, rehome_error* error) {
    return Answer(Handler(opaque).Quiesce(*block), error);
  }
  static int PauseAndSave(void* opaque, rehome_block* block, uint64_t* size, rehome_error* error) {
    const auto saved = Handler(opaque).PauseAndSave(*block);
    if (!saved.ok()) return Answer(saved.status(), error);
    *size = *saved;
    return 0;
  }
  static uint64_t LayoutDigest(void* opaque) { return Handler(opaque).LayoutDigest(); }
  // EIO is the kernel's word that the VM is dead, and nothing else may be taken for it.
  static int ProbeVm(void* opaque) {
    const absl::Status probed = Handler(opaque).ProbeVm();
    if (probed.ok()) return 0;
    return ReasonOf(probed) == "VM_DEAD" ? -EIO : -EAGAIN;
  }
  static void Resume(void* opaque) { Handler(opaque).Resume(); }
  static void HandedOver(void* opaque) { Handler(opaque).HandedOver(); }
  static void Released(void* opaque) { Handler(opaque).Released(); }
  // The fence policy is the library's business.
  static int Prepare(void* opaque, uint32_t strategy, uint32_t, const rehome_vm* source,
                     rehome_block* block, rehome_vm* target, rehome_error* error) {
    return Answer(Handler(opaque).Prepare(static_cast<AgentLink*>(opaque)->agent(), strategy,
                                          *source, *block, *target),
                  error);
  }
  static int ArmTarget(void* opaque, rehome_block* block, rehome_error* error) {
    return Answer(Handler(opaque).ArmTarget(*block), error);
  }
  static void Cancelled(void* opaque) { Handler(opaque).Cancelled(); }

  static constexpr rehome_agent_ops kOps = {.describe = Describe,
                                            .arm_source = ArmSource,
                                            .quiesce = Quiesce,
                                            .pause_and_save = PauseAndSave,
                                            .layout_digest = LayoutDigest,
                                            .probe_vm = ProbeVm,
                                            .resume = Resume,
                                            .handed_over = HandedOver,
                                            .released = Released,
                                            .prepare = Prepare,
                                            .arm_target = ArmTarget,
                                            .cancelled = Cancelled};
};

AgentLink::AgentLink(AgentHandler& handler)
    : handler_(handler), agent_(started_.get_future().share()) {}

absl::StatusOr<std::unique_ptr<AgentLink>> AgentLink::Start(Settings settings,
                                                            const VmmVersion& version,
                                                            AgentHandler& handler) {
  std::unique_ptr<AgentLink> link(new AgentLink(handler));
  const rehome_agent_config config = {
      .connection_fd = settings.connection.borrow().raw(),
      .socket_path = settings.socket_path.empty() ? nullptr : settings.socket_path.c_str(),
      .role = static_cast<uint32_t>(settings.role),
      .features = REHOME_FEATURES_ALL,
      .state_format_write = version.writes.newest,
      .state_format_read_min = version.reads.oldest,
      .state_format_read_max = version.reads.newest,
      .vmm_name = version.name,
      .vmm_version = version.version,
      .trace = settings.trace};
  rehome_agent* agent = rehome_agent_start(&config, &AgentCallbacks::kOps, link.get());
  const int error = errno;
  link->started_.set_value(agent);
  if (agent == nullptr) {
    return MakeStatus(absl::StatusCode::kUnavailable, "AGENT_START_FAILED",
                      std::string("the agent cannot start: ") + std::strerror(error));
  }
  static_cast<void>(settings.connection.Release());  // the library's now
  return link;
}

AgentLink::~AgentLink() { rehome_agent_stop(agent()); }

rehome_agent* AgentLink::agent() { return agent_.get(); }

}  // namespace rehome
