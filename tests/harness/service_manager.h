// SPDX-License-Identifier: Apache-2.0
//
// The part of a service manager that outlives a daemon: keeps the descriptors that the daemon
// stores (sd_notify(3), FDSTORE=1) and gives them to the next one (sd_listen_fds(3)).
#ifndef REHOME_TESTS_HARNESS_SERVICE_MANAGER_H_
#define REHOME_TESTS_HARNESS_SERVICE_MANAGER_H_

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "tests/harness/process.h"

namespace rehome::harness {

// Thread-safe.
class ServiceManager {
 public:
  static absl::StatusOr<std::unique_ptr<ServiceManager>> Open();
  ~ServiceManager();
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  // `options` as this manager starts a service: NOTIFY_SOCKET, and what is stored as LISTEN_FDS.
  // Whatever the service before it sent has been taken in by then.
  absl::StatusOr<Process> Start(Process::Options options);

  // Names of what is stored, one for each descriptor, in order.
  std::vector<std::string> stored() const;

 private:
  ServiceManager() = default;
  void Serve();
  // False: nothing is waiting.
  bool TakeOne();
  void Apply(const std::string& message, std::vector<UniqueFd> fds);

  std::unique_ptr<TempDir> directory_;
  UniqueFd socket_;
  UniqueFd stop_;  // eventfd
  mutable std::mutex mutex_;
  std::multimap<std::string, UniqueFd> stored_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_SERVICE_MANAGER_H_
