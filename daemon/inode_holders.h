// SPDX-License-Identifier: Apache-2.0
//
// Who has a file open or mapped, by reading all of /proc. Part of the fence (daemon/fence.h).
#ifndef REHOME_DAEMON_INODE_HOLDERS_H_
#define REHOME_DAEMON_INODE_HOLDERS_H_

#include <chrono>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/fence.h"
#include "daemon/migration.h"
#include "kvmglue/fd.h"

namespace rehome {

// Between two looks at a child of ours that may be about to exec (kForkSettleTimeout of fence.h).
inline constexpr std::chrono::milliseconds kForkSettlePause{1};

// The parameters of one Fence::FindHolders().
struct HolderQuery {
  std::vector<InodeId> inodes;
  std::vector<ProcessIdentity> allowed;
};

// As that, for each query, in order; /proc is read once. An error is of all of them.
absl::StatusOr<std::vector<HolderSearch>> FindInodeHolders(const std::vector<HolderQuery>& queries);

}  // namespace rehome

#endif  // REHOME_DAEMON_INODE_HOLDERS_H_
