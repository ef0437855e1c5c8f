// SPDX-License-Identifier: Apache-2.0
//
// rehome.v1.HostService: what this host and this daemon can do, as found at start.
#ifndef REHOME_DAEMON_SERVICE_HOST_SERVICE_H_
#define REHOME_DAEMON_SERVICE_HOST_SERVICE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/launcher.h"
#include "daemon/pinned_memory.h"
#include "kvmglue/capabilities.h"
#include "rehome/v1/host.grpc.pb.h"

namespace rehome {

// What main() knows once everything is wired.
struct HostFacts {
  HostCapabilities capabilities;
  std::string boot_id;
  int64_t start_time_unix_ns = 0;
  std::vector<VmmProfile> profiles;  // by name
  size_t concurrent_migrations = 0;
  std::chrono::milliseconds default_handover_timeout{0};
  std::chrono::milliseconds default_deadline{0};
};

// Host with every field that `facts` and the constants of this build give.
v1::Host ToProto(const HostFacts& facts);

// Counts now how much guest memory the daemon pins.
using PinnedCounter = std::function<absl::StatusOr<PinnedBytes>()>;

// Thread-safe.
class HostService final : public v1::HostService::Service {
 public:
  // `count_pinned` is called by every request, on its thread.
  HostService(const HostFacts& facts, PinnedCounter count_pinned)
      : host_(ToProto(facts)), count_pinned_(std::move(count_pinned)) {}

  grpc::Status GetHost(grpc::ServerContext* context, const v1::GetHostRequest* request,
                       v1::Host* response) override;

 private:
  const v1::Host host_;
  const PinnedCounter count_pinned_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_HOST_SERVICE_H_
