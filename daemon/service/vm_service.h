// SPDX-License-Identifier: Apache-2.0
//
// rehome.v1.VirtualMachineService: the directory of VMs, translated.
#ifndef REHOME_DAEMON_SERVICE_VM_SERVICE_H_
#define REHOME_DAEMON_SERVICE_VM_SERVICE_H_

#include "daemon/service/watch_gate.h"
#include "daemon/vm_directory.h"
#include "rehome/v1/virtual_machine.grpc.pb.h"

namespace rehome {

// Thread-safe. Borrows everything it is given.
class VmService final : public v1::VirtualMachineService::Service {
 public:
  VmService(const VmDirectory* vms, WatchGate* watches) : vms_(vms), watches_(watches) {}

  grpc::Status GetVirtualMachine(grpc::ServerContext* context,
                                 const v1::GetVirtualMachineRequest* request,
                                 v1::VirtualMachine* response) override;
  grpc::Status ListVirtualMachines(grpc::ServerContext* context,
                                   const v1::ListVirtualMachinesRequest* request,
                                   v1::ListVirtualMachinesResponse* response) override;
  grpc::Status WatchVirtualMachines(
      grpc::ServerContext* context, const v1::WatchVirtualMachinesRequest* request,
      grpc::ServerWriter<v1::WatchVirtualMachinesResponse>* writer) override;

 private:
  const VmDirectory* const vms_;
  WatchGate* const watches_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_VM_SERVICE_H_
