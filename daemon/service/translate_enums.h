// SPDX-License-Identifier: Apache-2.0
//
// Enums and times of rehome.v1 and the daemon's own. Protobuf enums are open, ours are not, so
// nothing here is a cast: a value without a counterpart becomes UNSPECIFIED on the way out and
// nullopt on the way in.
#ifndef REHOME_DAEMON_SERVICE_TRANSLATE_ENUMS_H_
#define REHOME_DAEMON_SERVICE_TRANSLATE_ENUMS_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "daemon/migration.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "kvmglue/vm_type.h"
#include "rehome/v1/migration.pb.h"
#include "rehome/v1/virtual_machine.pb.h"

namespace rehome {

v1::VmType ToProto(VmType type);
v1::Migration::State ToProto(MigrationState state);
v1::Migration::GuestOwner ToProto(GuestOwner owner);
v1::Migration::Strategy ToProto(Strategy strategy);
v1::Migration::FencePolicy ToProto(FencePolicy policy);
// nullopt for a policy that this daemon does not know.
std::optional<FencePolicy> FromProto(v1::Migration::FencePolicy policy);

google::protobuf::Timestamp ToTimestamp(int64_t unix_ns);
google::protobuf::Duration ToDuration(std::chrono::milliseconds duration);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_TRANSLATE_ENUMS_H_
