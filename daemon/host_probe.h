// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_HOST_PROBE_H_
#define REHOME_DAEMON_HOST_PROBE_H_

#include <memory>

#include "daemon/config.h"
#include "daemon/fd_kinds.h"
#include "kvmglue/capabilities.h"

namespace rehome {

// What depends on whether this daemon serves real KVM or the simulated kernel; nothing else in the
// daemon knows the difference.
struct Backend {
  HostCapabilities capabilities;
  std::unique_ptr<FdKinds> fd_kinds;
};

// Probes the kernel once (throw-away VMs, closed again before this returns).
Backend OpenBackend(KernelBackend backend, const LinkAbi& link_abi);

}  // namespace rehome

#endif  // REHOME_DAEMON_HOST_PROBE_H_
