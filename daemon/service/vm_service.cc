// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/vm_service.h"

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/service/page_token.h"
#include "daemon/service/resource_names.h"
#include "daemon/service/status_details.h"
#include "daemon/service/translate.h"

namespace rehome {
namespace {

// ListVirtualMachinesRequest.page_size says these numbers. A VM is about 150 bytes.
constexpr size_t kDefaultVmPage = 100;
constexpr size_t kMaxVmPage = 1000;
constexpr std::string_view kListMethod = "ListVirtualMachines";

// One watch stream: what the client knows of the directory. Compares lists, because the directory
// keeps no history: a change costs time in proportion to the number of VMs, and needs no memory in
// the directory for clients that are slow.
class VmStream {
 public:
  VmStream(std::chrono::milliseconds heartbeat_interval,
           grpc::ServerWriter<v1::WatchVirtualMachinesResponse>* writer)
      : heartbeat_interval_(heartbeat_interval), writer_(writer) {}

  // Sends what differs from what the client knows, or a heartbeat if one is due. False: the client
  // is gone.
  bool Report(const VmDirectory& vms, uint64_t revision) {
    v1::WatchVirtualMachinesResponse response;
    response.set_revision(static_cast<int64_t>(revision));
    if (std::exchange(first_, false)) {
      AddSnapshot(vms.List(), response.mutable_snapshot());
      return Send(response);
    }
    if (AddChange(vms.List(), response.mutable_change())) return Send(response);
    return Idle(revision);
  }

  // Nothing changed: a heartbeat if one is due.
  bool Idle(uint64_t revision) {
    if (std::chrono::steady_clock::now() - last_sent_ < heartbeat_interval_) return true;
    v1::WatchVirtualMachinesResponse response;
    response.set_revision(static_cast<int64_t>(revision));
    response.mutable_heartbeat();
    return Send(response);
  }

 private:
  void AddSnapshot(const std::vector<VmEntry>& now,
                   v1::WatchVirtualMachinesResponse::Snapshot* snapshot) {
    for (const VmEntry& vm : now) {
      *snapshot->add_virtual_machines() = ToProto(vm);
      known_[vm.vm_id] = vm.revision;
    }
  }

  // False: nothing differs.
  bool AddChange(const std::vector<VmEntry>& now,
                 v1::WatchVirtualMachinesResponse::Change* change) {
    std::map<std::string, uint64_t> current;
    for (const VmEntry& vm : now) {
      current[vm.vm_id] = vm.revision;
      const auto before = known_.find(vm.vm_id);
      if (before != known_.end() && before->second == vm.revision) continue;
      *change->add_virtual_machines() = ToProto(vm);
    }
    for (const auto& [vm_id, revision] : known_) {
      if (!current.contains(vm_id)) change->add_removed(VmName(vm_id));
    }
    known_ = std::move(current);
    return change->virtual_machines_size() + change->removed_size() > 0;
  }

  bool Send(const v1::WatchVirtualMachinesResponse& response) {
    last_sent_ = std::chrono::steady_clock::now();
    return writer_->Write(response);
  }

  const std::chrono::milliseconds heartbeat_interval_;
  grpc::ServerWriter<v1::WatchVirtualMachinesResponse>* const writer_;
  bool first_ = true;
  std::map<std::string, uint64_t> known_;  // id -> revision
  std::chrono::steady_clock::time_point last_sent_;
};

}  // namespace

grpc::Status VmService::GetVirtualMachine(grpc::ServerContext* /*context*/,
                                          const v1::GetVirtualMachineRequest* request,
                                          v1::VirtualMachine* response) {
  const absl::StatusOr<std::string> id = ParseVmName(request->name());
  if (!id.ok()) return ToGrpcStatus(id.status());
  const absl::StatusOr<VmEntry> vm = vms_->Get(*id);
  if (!vm.ok()) {
    return ToGrpcStatus(vm.status(), ErrorContext{.metadata = {{"vm", *id}},
                                                  .resource_type = std::string(kVmResourceType),
                                                  .resource_name = VmName(*id)});
  }
  *response = ToProto(*vm);
  return grpc::Status::OK;
}

grpc::Status VmService::ListVirtualMachines(grpc::ServerContext* /*context*/,
                                            const v1::ListVirtualMachinesRequest* request,
                                            v1::ListVirtualMachinesResponse* response) {
  const absl::StatusOr<size_t> size =
      ParsePageSize(request->page_size(), kDefaultVmPage, kMaxVmPage);
  if (!size.ok()) return ToGrpcStatus(size.status());
  const absl::StatusOr<std::string> after = ParsePageToken(request->page_token(), kListMethod, "");
  if (!after.ok()) return ToGrpcStatus(after.status());

  std::string last_id;
  for (const VmEntry& vm : vms_->List()) {
    // "" is before every id.
    if (vm.vm_id <= *after) continue;
    if (static_cast<size_t>(response->virtual_machines_size()) == *size) {
      response->set_next_page_token(MakePageToken(kListMethod, "", last_id));
      break;
    }
    *response->add_virtual_machines() = ToProto(vm);
    last_id = vm.vm_id;
  }
  return grpc::Status::OK;
}

grpc::Status VmService::WatchVirtualMachines(
    grpc::ServerContext* context, const v1::WatchVirtualMachinesRequest* /*request*/,
    grpc::ServerWriter<v1::WatchVirtualMachinesResponse>* writer) {
  const absl::StatusOr<WatchGate::Pass> pass = watches_->Enter();
  if (!pass.ok()) return ToGrpcStatus(pass.status());

  VmStream stream(watches_->heartbeat_interval(), writer);
  // Read before the list, so that a change between the two is reported again and not lost.
  uint64_t revision = vms_->revision();
  bool connected = stream.Report(*vms_, revision);
  while (connected && !context->IsCancelled() && !watches_->closed()) {
    const uint64_t now = vms_->WaitForChange(revision, kWatchPoll);
    connected = now > revision ? stream.Report(*vms_, now) : stream.Idle(now);
    revision = now;
  }
  if (watches_->closed()) return ToGrpcStatus(WatchGate::ClosedError());
  return grpc::Status::CANCELLED;
}

}  // namespace rehome
