// SPDX-License-Identifier: Apache-2.0
//
// The other end of sd_notify(3) in a test: the socket of a service manager that keeps descriptors
// as systemd does, and hands them to the next ServiceManager.
#ifndef REHOME_DAEMON_TESTING_NOTIFY_SOCKET_H_
#define REHOME_DAEMON_TESTING_NOTIFY_SOCKET_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/service_manager.h"
#include "daemon/vmm_link.h"
#include "kvmglue/fd.h"

namespace rehome::testing_support {

class NotifySocket {
 public:
  // Listens on an abstract socket of its own.
  NotifySocket();

  // The daemon's side, as if started by this manager with all that it has stored.
  std::unique_ptr<ServiceManager> Start() const;
  // As of NOTIFY_SOCKET.
  std::string variable() const { return "@" + name_; }

  // The manager is gone, with its queue but not its store, until it listens again.
  void StopListening() { socket_.Reset(); }
  void Listen();

  // Takes in what has been sent so far. Returns the messages.
  std::vector<std::string> Drain();
  // By name, as of the last Drain().
  const std::map<std::string, UniqueFd>& stored() const { return stored_; }
  // For a test that spoils the store.
  std::map<std::string, UniqueFd>& mutable_stored() { return stored_; }

 private:
  void Apply(const std::string& message, std::vector<UniqueFd> fds);

  UniqueFd socket_;
  std::string name_;
  std::map<std::string, UniqueFd> stored_;
};

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_NOTIFY_SOCKET_H_
