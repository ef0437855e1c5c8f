// SPDX-License-Identifier: Apache-2.0
//
// From the daemon's own records to rehome.v1. Pure.
#ifndef REHOME_DAEMON_SERVICE_TRANSLATE_H_
#define REHOME_DAEMON_SERVICE_TRANSLATE_H_

#include <chrono>
#include <optional>
#include <string>

#include "daemon/migration.h"
#include "daemon/vm_directory.h"
#include "google/rpc/status.pb.h"
#include "rehome/v1/migration.pb.h"
#include "rehome/v1/virtual_machine.pb.h"

namespace rehome {

// The VMMs' time stamps are believed up to this: both hand-over deadlines at their maximum (10 s
// and 60 s) with room to spare.
inline constexpr std::chrono::nanoseconds kMaxPlausibleBlackout = std::chrono::minutes(10);

v1::VirtualMachine ToProto(const VmEntry& vm);

// The record as clients see it. Private steps are left out; what is not known yet is unset.
v1::Migration ToProto(const Migration& migration);

// The VMM as clients see it; `vmm` is name and version.
v1::VmmProcess ProcessToProto(const ProcessIdentity& process, const std::string& vmm);

// The blackout of a guest that was handed over. nullopt if it was not, or if begin and end are not
// plausible; without phases if only the stamps in between are not.
std::optional<v1::Blackout> BlackoutOf(const Migration& migration);

// Why a migration did not succeed, with PreconditionFailure for each failed preflight check.
// nullopt if nothing failed. The code follows from how it ended (Migration.error says how).
std::optional<google::rpc::Status> ErrorOf(const Migration& migration);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_TRANSLATE_H_
