// SPDX-License-Identifier: Apache-2.0
//
// Everything that can be known to stand in a migration's way, found before anything is started and
// reported all at once: every check runs even if an earlier one failed, unless it needs what that
// one did not deliver (then it is kNotApplicable).
#ifndef REHOME_DAEMON_PREFLIGHT_H_
#define REHOME_DAEMON_PREFLIGHT_H_

#include <chrono>
#include <vector>

#include "daemon/escrow.h"
#include "daemon/fence.h"
#include "daemon/interrupt.h"
#include "daemon/launcher.h"
#include "daemon/migration.h"
#include "daemon/vm_directory.h"
#include "kvmglue/capabilities.h"

namespace rehome {

struct PreflightInputs {
  const HostCapabilities* host;
  VmDirectory* vms;
  Launcher* launcher;
  Fence* fence;
  std::chrono::milliseconds agent_timeout;
};

// Fills escrow.source_link, source_pidfd and source, and the facts of `record` that the source told
// (vm_type, strategy, fence_policy, layout, ...). `record.preflight` gets one entry per check, in
// the order of kPreflightChecks. The guest runs on; unless the request is validate_only the source
// is asked to hold its slots and device fds, which DiscardTarget or the end of the migration
// undoes.
void RunPreflight(const PreflightInputs& inputs, Interrupt& interrupt, Escrow& escrow,
                  Migration& record);

// The first failed check as a failure, or an empty one.
Failure FirstFailure(const std::vector<PreflightCheck>& checks);

}  // namespace rehome

#endif  // REHOME_DAEMON_PREFLIGHT_H_
