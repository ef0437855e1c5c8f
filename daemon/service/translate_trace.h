// SPDX-License-Identifier: Apache-2.0
//
// From a migration's trace to rehome.v1. Pure.
#ifndef REHOME_DAEMON_SERVICE_TRANSLATE_TRACE_H_
#define REHOME_DAEMON_SERVICE_TRANSLATE_TRACE_H_

#include "daemon/migration.h"
#include "daemon/migration_trace.h"
#include "rehome/v1/migration_trace.pb.h"

namespace rehome {

// `migration` is the record that the trace belongs to: the phases and the processes are its.
v1::MigrationTrace ToProto(const MigrationTrace& trace, const Migration& migration);

}  // namespace rehome

#endif  // REHOME_DAEMON_SERVICE_TRANSLATE_TRACE_H_
