// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/host_service.h"

#include "daemon/journal.h"
#include "daemon/registry.h"
#include "daemon/service/peer_table.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/service_reasons.h"
#include "daemon/service/status_details.h"
#include "daemon/service/translate_enums.h"
#include "daemon/service/watch_gate.h"
#include "daemon/vm_directory.h"
#include "proto/version.h"

namespace rehome {
namespace {

v1::Limits LimitsOf(const HostFacts& facts) {
  v1::Limits limits;
  limits.set_max_concurrent_migrations(static_cast<int32_t>(facts.concurrent_migrations));
  limits.set_max_pending_migrations(static_cast<int32_t>(kMaxPending));
  limits.set_max_finished_migrations(static_cast<int32_t>(kMaxFinishedMigrations));
  limits.set_max_virtual_machines(static_cast<int32_t>(kMaxRegisteredVms));
  limits.set_max_watch_streams(static_cast<int32_t>(kMaxWatchStreams));
  limits.set_max_connections(static_cast<int32_t>(kMaxApiConnections));
  *limits.mutable_default_handover_timeout() = ToDuration(facts.default_handover_timeout);
  *limits.mutable_default_deadline() = ToDuration(facts.default_deadline);
  return limits;
}

}  // namespace

v1::Host ToProto(const HostFacts& facts) {
  v1::Host host;
  host.set_name(std::string(kHostName));
  host.set_version(kVersion);
  host.set_backend(facts.capabilities.backend);
  host.set_kernel_release(facts.capabilities.kernel_release);
  host.set_machine(facts.capabilities.machine);
  host.set_boot_id(facts.boot_id);
  *host.mutable_start_time() = ToTimestamp(facts.start_time_unix_ns);
  for (const Capability& capability : facts.capabilities.capabilities) {
    v1::Capability* const added = host.add_capabilities();
    added->set_name(capability.name);
    added->set_available(capability.available);
    added->set_reason(capability.reason);
    added->set_detail(capability.detail);
  }
  for (const VmmProfile& profile : facts.profiles) {
    v1::VmmProfile* const added = host.add_vmm_profiles();
    added->set_name(profile.name);
    added->set_enabled(profile.enabled);
    for (const uint32_t format : profile.reads_state_formats) {
      added->add_reads_state_formats(static_cast<int32_t>(format));
    }
  }
  *host.mutable_limits() = LimitsOf(facts);
  host.set_link_ioctl_number(static_cast<int32_t>(facts.capabilities.link_abi.ioctl_number));
  return host;
}

grpc::Status HostService::GetHost(grpc::ServerContext* /*context*/,
                                  const v1::GetHostRequest* request, v1::Host* response) {
  if (!request->name().empty() && request->name() != kHostName) {
    return ToGrpcStatus(
        FieldErrors(service_reason::kBadName, {{"name", "must be \"host\" or empty"}}));
  }
  *response = host_;
  const absl::StatusOr<PinnedBytes> pinned = count_pinned_();
  if (pinned.ok()) {
    v1::PinnedMemory* const memory = response->mutable_pinned_memory();
    memory->set_active_bytes(static_cast<int64_t>(pinned->active));
    memory->set_finished_bytes(static_cast<int64_t>(pinned->finished));
    memory->set_indeterminate_bytes(static_cast<int64_t>(pinned->indeterminate));
  }
  return grpc::Status::OK;
}

}  // namespace rehome
