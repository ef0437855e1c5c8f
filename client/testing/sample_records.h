// SPDX-License-Identifier: Apache-2.0
//
// Records as a daemon would send them, for tests of what people see.
#ifndef REHOME_CLIENT_TESTING_SAMPLE_RECORDS_H_
#define REHOME_CLIENT_TESTING_SAMPLE_RECORDS_H_

#include <string>
#include <vector>

#include "grpcpp/support/status.h"
#include "rehome/v1/host.pb.h"
#include "rehome/v1/migration.pb.h"
#include "rehome/v1/virtual_machine.pb.h"

namespace rehome::testing {

// web-1, on rehome-vmm 1.0 (pid 1234).
v1::VirtualMachine SampleVm();

// A host that can MAP and cannot LINK.
v1::Host SampleHost();

// The records of web-1's migration to rehome-vmm 2.0 (pid 4321): PENDING, PREPARING three times
// (nothing, checked, launched), HANDING_OVER, COMPLETING, SUCCEEDED. Revisions 1 to 7.
std::vector<v1::Migration> SampleHistory();

// The ends that are not SUCCEEDED, each as it follows on the start of SampleHistory().
v1::Migration BlockedMigration();
v1::Migration RolledBackMigration();
v1::Migration CancelledMigration();
v1::Migration IndeterminateMigration();
v1::Migration LostMigration();
v1::Migration UnprovenMigration();  // on the target, the fence incomplete

// SUCCEEDED after the daemon was restarted and a first target died.
v1::Migration RescuedMigration();

// An error as the daemon sends it, with ErrorInfo{reason, metadata vm=web-1}.
grpc::Status SampleError(grpc::StatusCode code, const std::string& reason,
                         const std::string& message);

}  // namespace rehome::testing

#endif  // REHOME_CLIENT_TESTING_SAMPLE_RECORDS_H_
