// SPDX-License-Identifier: Apache-2.0
//
// A migration as a Chrome trace: the JSON that ui.perfetto.dev and chrome://tracing open.
#ifndef REHOME_CLIENT_TRACE_CHROME_TRACE_H_
#define REHOME_CLIENT_TRACE_CHROME_TRACE_H_

#include <string>

#include "rehome/v1/migration.pb.h"
#include "rehome/v1/migration_trace.pb.h"

namespace rehome {

// One JSON object. Three processes: the source, the target, and rehomed, which also carries
// blackout and phases. Events are complete ("X") or instants ("i"), in the order of their time,
// which is in us since the first of them; on each thread they are apart from each other or one
// within another.
std::string ChromeTrace(const v1::Migration& migration, const v1::MigrationTrace& trace);

}  // namespace rehome

#endif  // REHOME_CLIENT_TRACE_CHROME_TRACE_H_
