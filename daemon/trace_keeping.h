// SPDX-License-Identifier: Apache-2.0
//
// The trace of a migration, from the offer of an area to the journal. Whatever goes wrong here
// costs the trace, or a part of it, and nothing else; nothing here waits for a VMM.
#ifndef REHOME_DAEMON_TRACE_KEEPING_H_
#define REHOME_DAEMON_TRACE_KEEPING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/effect_context.h"
#include "daemon/trace_area.h"

namespace rehome {

// Before ARM_*: lends the VMM behind `link` an area, `*area`, if both want a trace.
void OfferTraceArea(const EffectContext& context, const std::string& migration_id, VmmLink& link,
                    std::unique_ptr<TraceArea>* area);

// Notes a step that ends now.
void NoteTraceStep(std::vector<TraceStep>& steps, Step step, uint64_t begin_ns);

// Once the migration's terminal record is journaled: lets go of the escrow, and then hands on what
// was recorded until now, if an area was lent. Its last step is DONE: from the end of the last
// effect to here.
void KeepTrace(const EffectDependencies& dependencies, const Migration& last, Escrow escrow);

}  // namespace rehome

#endif  // REHOME_DAEMON_TRACE_KEEPING_H_
