// SPDX-License-Identifier: Apache-2.0
//
// The virtual machines of this host: who runs which guest now. Entries come and go with agent
// connections; the directory holds no fd of any guest's memory.
#ifndef REHOME_DAEMON_VM_DIRECTORY_H_
#define REHOME_DAEMON_VM_DIRECTORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "daemon/vmm_link.h"
#include "kvmglue/vm_type.h"

namespace rehome {

// A bound, so that a client of the agent socket cannot make the daemon grow: 10 times the densest
// hosts we know of.
inline constexpr size_t kMaxRegisteredVms = 8192;

struct VmEntry {
  std::string vm_id;
  VmType vm_type = VmType::kDefault;
  uint32_t vcpu_count = 0;
  uint64_t memory_bytes = 0;
  std::string vmm;  // "name version"
  uint32_t state_format_write = 0;
  ProcessIdentity process;
  std::string active_migration;  // id or ""
  int64_t register_time_unix_ns = 0;
  uint64_t revision = 0;  // of the directory, at the last change of this entry
};

// Thread-safe.
class VmDirectory {
 public:
  // ALREADY_EXISTS / VM_ID_TAKEN if a living process has it (a migration's target may replace its
  // source: `migration_id` names the migration that is active on the VM, and the VM passes over to
  // `link` when HandOver() says so); RESOURCE_EXHAUSTED / TOO_MANY_VMS; INVALID_ARGUMENT / BAD_VM_ID.
  absl::Status Register(const VmEntry& vm, const std::string& migration_id,
                        std::shared_ptr<VmmLink> link);
  // The process behind `link` is gone or disconnected: drops the entry if it is still its.
  void Unregister(const VmmLink* link);
  // After RUNNING: `link`'s process is the one that runs `vm_id` now.
  void HandOver(const std::string& vm_id, std::shared_ptr<VmmLink> link);

  absl::StatusOr<VmEntry> Get(const std::string& vm_id) const;  // NOT_FOUND / VM_NOT_FOUND
  std::vector<VmEntry> List() const;                            // by vm_id
  // The live connection to the VMM that runs it. NOT_FOUND / VM_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<VmmLink>> LinkOf(const std::string& vm_id) const;

  void SetActiveMigration(const std::string& vm_id, const std::string& migration_id);

  uint64_t revision() const;
  // Blocks until revision() > seen or the timeout; returns the revision then.
  uint64_t WaitForChange(uint64_t seen, std::chrono::milliseconds timeout) const;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_VM_DIRECTORY_H_
