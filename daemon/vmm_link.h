// SPDX-License-Identifier: Apache-2.0
//
// The daemon's end of one agent connection: typed requests with a deadline, events out. Everything
// that arrives is checked against vmm/agent/protocol.h before anybody sees it; a violation closes
// the connection and every pending call fails with AGENT_PROTOCOL_VIOLATION.
#ifndef REHOME_DAEMON_VMM_LINK_H_
#define REHOME_DAEMON_VMM_LINK_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/interrupt.h"
#include "daemon/migration.h"
#include "kvmglue/fd.h"
#include "kvmglue/memory_layout.h"
#include "kvmglue/vm_type.h"

namespace rehome {

struct VmmHello {
  uint32_t features = 0;
  bool is_target = false;
  uint32_t state_format_write = 0, state_format_read_min = 0, state_format_read_max = 0;
  std::string vmm_name, vmm_version;
};

struct NamedFd {
  std::string name;
  UniqueFd fd;
};

// rehome_description with its fds, checked: layout well-formed (ValidateLayout), each slot's
// memory_index valid and its (device, inode) that of the fd really received (fstat, not the claim),
// slot within the file's size.
struct VmDescription {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint32_t vcpu_count = 0;
  uint64_t state_capacity = 0;
  uint64_t layout_digest = 0;  // recomputed here, not the claimed one (a difference is refused)
  // What its state is written in. Of a source that can still choose the newest, and the oldest,
  // with none left out between; 0: no choice, or made.
  uint32_t state_format = 0;
  uint32_t state_format_oldest = 0;
  MemoryLayout layout;
  UniqueFd vm;
  std::vector<UniqueFd> memory;
  UniqueFd config;
  std::vector<NamedFd> named;
};

// The answer to HAND_IN: what a daemon that lost its own copies needs to settle a migration.
struct HandedIn {
  UniqueFd
      block;  // the handover block, said to be that migration's; whoever maps it checks the rest
  // The VM of the process that was asked; the configuration and named fds only from a source. A
  // VmmLink always has it.
  std::optional<VmDescription> vm;
};

struct LinkEvent {
  // As enum rehome_event_kind; kClosed is ours: the connection has ended.
  enum class Kind {
    kResumed,
    kHandedOver,
    kFirstRun,
    kFirstRunFailed,
    kGuestStopped,
    kTakeOverFailed,
    kVmDead,
    kClosed
  };
  Kind kind = Kind::kClosed;
  std::string migration_id;  // "" for kGuestStopped and kClosed
  std::string text;          // printable ASCII
};

// Thread-safe. Calls block their thread until the reply, the deadline, the interrupt or the end of
// the connection; sends never block (a full socket is AGENT_STALLED).
class VmmLink {
 public:
  virtual ~VmmLink() = default;

  virtual const VmmHello& hello() const = 0;
  virtual ProcessIdentity process() const = 0;
  // Of the peer, taken at connect (SO_PEERPIDFD, else pidfd_open on SO_PEERCRED).
  virtual BorrowedFd pidfd() const = 0;
  virtual bool closed() const = 0;

  // `interrupt` may be null. Errors: UNAVAILABLE / AGENT_GONE, DEADLINE_EXCEEDED / AGENT_TIMEOUT,
  // CANCELLED / INTERRUPTED, FAILED_PRECONDITION / AGENT_REFUSED_* with the agent's text,
  // INVALID_ARGUMENT / AGENT_PROTOCOL_VIOLATION.
  virtual absl::StatusOr<VmDescription> Describe(const std::string& migration_id, bool hold,
                                                 std::chrono::milliseconds timeout,
                                                 Interrupt* interrupt) = 0;
  struct PrepareRequest {
    std::string migration_id;
    Strategy strategy;
    FencePolicy fence_policy;
    const VmDescription* source;  // its fds are sent as duplicates; VM fd only in MOVE strategies
    BorrowedFd block;
  };
  virtual absl::StatusOr<VmDescription> Prepare(const PrepareRequest& request,
                                                std::chrono::milliseconds timeout,
                                                Interrupt* interrupt) = 0;
  // Lends the VMM a trace area (vmm/agent/trace.h), of which it gets a duplicate. Nothing is
  // answered, and nothing waits; the next ARM_* comes after it. For a VMM with feature TRACE.
  virtual absl::Status OfferTrace(const std::string& /*migration_id*/, BorrowedFd /*area*/) {
    return absl::UnimplementedError("no trace");
  }
  virtual absl::Status ArmTarget(const std::string& migration_id, BorrowedFd source_pidfd,
                                 std::chrono::milliseconds timeout, Interrupt* interrupt) = 0;
  struct ArmSourceRequest {
    std::string migration_id;
    uint64_t layout_digest = 0;
    // One that the VMM offered when it described itself. Told to a VMM with feature FORMATS; any
    // other knows one only.
    uint32_t state_format = 0;
    BorrowedFd block;
    BorrowedFd target_pidfd;
  };
  virtual absl::Status ArmSource(const ArmSourceRequest& request, std::chrono::milliseconds timeout,
                                 Interrupt* interrupt) = 0;
  virtual absl::Status Start(const std::string& migration_id,
                             std::chrono::milliseconds timeout) = 0;
  virtual absl::Status Cancel(const std::string& migration_id,
                              std::chrono::milliseconds timeout) = 0;
  virtual absl::Status Release(const std::string& migration_id,
                               std::chrono::milliseconds timeout) = 0;
  struct Probe {
    bool vm_alive = false;
    // It gave EIO, says an agent with feature EXACT. Neither this nor alive: an older one says that
    // it is dead, which it says after any failure.
    bool vm_dead = false;
    // Of a target: its first KVM_RUN has come back sane, as FIRST_RUN says.
    bool guest_running = false;
  };
  // A VMM that could not ask its VM refuses: AGENT_REFUSED_KERNEL.
  virtual absl::StatusOr<Probe> ProbeVm(const std::string& migration_id,
                                        std::chrono::milliseconds timeout) = 0;
  // From a source from ARM_SOURCE to the end of the migration, and from a target from ARM_TARGET
  // until the guest has run there (it registers then). AGENT_REFUSED_WRONG_MIGRATION outside of
  // that: there is nothing to hand in, if the VMM has feature EXACT. Every other error is no
  // answer; AGENT_REFUSED_UNSUPPORTED, without asking, from a VMM without feature RECOVER.
  virtual absl::StatusOr<HandedIn> HandIn(const std::string& migration_id,
                                          std::chrono::milliseconds timeout) = 0;

  // Waits for an event of `migration_id` of one of `kinds`; kClosed always ends the wait. Events
  // are kept (bounded, oldest dropped) until somebody waits for them, so none is missed between
  // two calls.
  virtual absl::StatusOr<LinkEvent> AwaitEvent(const std::string& migration_id,
                                               const std::vector<LinkEvent::Kind>& kinds,
                                               std::chrono::milliseconds timeout,
                                               Interrupt* interrupt) = 0;
  // Closes the connection from our side.
  virtual void Close() = 0;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_VMM_LINK_H_
