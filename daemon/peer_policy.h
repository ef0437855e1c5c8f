// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_DAEMON_PEER_POLICY_H_
#define REHOME_DAEMON_PEER_POLICY_H_

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace rehome {

// Who may connect to a UNIX socket: a peer whose uid or (primary) gid is listed. Nobody else.
struct PeerPolicy {
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;

  bool Allows(uid_t uid, gid_t gid) const {
    return std::find(uids.begin(), uids.end(), uid) != uids.end() ||
           std::find(gids.begin(), gids.end(), gid) != gids.end();
  }
  // Of the socket's file: for the daemon's own user only if nobody else is listed; else for all,
  // and Allows() decides.
  mode_t SocketMode() const {
    const bool only_us = gids.empty() && uids.size() == 1 && uids.front() == geteuid();
    return only_us ? 0600 : 0666;
  }
};

}  // namespace rehome

#endif  // REHOME_DAEMON_PEER_POLICY_H_
