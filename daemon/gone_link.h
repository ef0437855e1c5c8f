// SPDX-License-Identifier: Apache-2.0
//
// The link to a VMM that there is no link to: of a process that is dead, or that has not connected
// to this daemon. Every call fails with UNAVAILABLE / AGENT_GONE.
#ifndef REHOME_DAEMON_GONE_LINK_H_
#define REHOME_DAEMON_GONE_LINK_H_

#include <memory>

#include "daemon/vmm_link.h"

namespace rehome {

std::shared_ptr<VmmLink> NewGoneLink(const ProcessIdentity& process);

}  // namespace rehome

#endif  // REHOME_DAEMON_GONE_LINK_H_
