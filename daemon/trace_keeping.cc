// SPDX-License-Identifier: Apache-2.0
#include "daemon/trace_keeping.h"

#include <utility>

#include "vmm/agent/protocol.h"

namespace rehome {

void OfferTraceArea(const EffectContext& context, const std::string& migration_id, VmmLink& link,
                    std::unique_ptr<TraceArea>* area) {
  if (!context.dependencies.keep_trace) return;
  if ((link.hello().features & REHOME_FEATURE_TRACE) == 0) return;
  std::unique_ptr<TraceArea> made = TraceArea::Create();
  if (made != nullptr && link.OfferTrace(migration_id, made->fd()).ok()) *area = std::move(made);
}

void NoteTraceStep(Escrow& escrow, Step step, uint64_t begin_ns) {
  if (escrow.trace_steps.size() == kMaxTraceSteps) return;
  escrow.trace_steps.push_back(
      {.step = step, .begin_ns = begin_ns, .end_ns = rehome_monotonic_ns()});
}

void KeepTrace(EffectContext& context, const Migration& record) {
  Escrow& escrow = context.escrow;
  const std::unique_ptr<TraceArea> source = std::move(escrow.source_trace);
  const std::unique_ptr<TraceArea> target = std::move(escrow.target_trace);
  if (source == nullptr && target == nullptr) return;
  MigrationTrace trace{.steps = std::move(escrow.trace_steps)};
  if (source != nullptr) trace.source = source->Read(record.vcpu_count);
  if (target != nullptr) trace.target = target->Read(record.vcpu_count);
  context.dependencies.keep_trace(record.id, trace);
}

}  // namespace rehome
