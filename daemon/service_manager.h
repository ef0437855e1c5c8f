// SPDX-License-Identifier: Apache-2.0
//
// The service manager that started this process, if one did: sd_notify(3) and sd_listen_fds(3).
// Not libsystemd's sd_notify(): that looks for its socket in the environment at every call, which
// no child may inherit, and waits for a manager that hangs as long as that hangs.
#ifndef REHOME_DAEMON_SERVICE_MANAGER_H_
#define REHOME_DAEMON_SERVICE_MANAGER_H_

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "daemon/vmm_link.h"
#include "kvmglue/fd.h"

namespace rehome {

// For the manager to take a datagram out of its queue. It is one thread with many services; a
// second is what it takes to reload its units on a large host.
inline constexpr std::chrono::milliseconds kServiceManagerTimeout{2000};

// Notify() is thread-safe.
class ServiceManager {
 public:
  // Takes socket and descriptors over from the environment and removes the variables from it
  // (NOTIFY_SOCKET, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES). The descriptors become close-on-exec;
  // they are closed if LISTEN_FDNAMES has not as many names, or LISTEN_FDS claims that more came.
  // REQUIRES: no other thread runs, and no descriptor has been closed since exec. Without a manager
  // present() is false.
  static std::unique_ptr<ServiceManager> FromEnvironment();

  // For tests. `address`: the bytes of sockaddr_un::sun_path, "" without a manager.
  ServiceManager(std::string address, std::vector<NamedFd> descriptors, bool whole = true)
      : address_(std::move(address)), descriptors_(std::move(descriptors)), whole_(whole) {}

  const std::string& address() const { return address_; }
  bool present() const { return !address_.empty(); }
  // Sends "VARIABLE=value" lines, with at most kMaxFdsPerMessage descriptors. Once it returns OK
  // the message is in the manager's queue and outlives this process. OK without a manager.
  // UNAVAILABLE / SERVICE_MANAGER_FAILED after kServiceManagerTimeout, or with errno in words.
  absl::Status Notify(std::string_view lines, std::span<const BorrowedFd> fds = {}) const;
  // Blocks until the manager has processed every message before it (BARRIER=1, sd_notify(3),
  // systemd 246). OK without a manager. UNAVAILABLE / SERVICE_MANAGER_FAILED after
  // kServiceManagerTimeout.
  absl::Status Barrier() const;
  // What the manager kept for us, with its names. The first call gets it.
  std::vector<NamedFd> TakeDescriptors() { return std::move(descriptors_); }
  // False: descriptors came, or were said to come, that could not be told apart; they were closed.
  bool descriptors_whole() const { return whole_; }

 private:
  const std::string address_;
  std::vector<NamedFd> descriptors_;
  const bool whole_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_MANAGER_H_
