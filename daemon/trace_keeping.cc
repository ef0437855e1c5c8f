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

void NoteTraceStep(std::vector<TraceStep>& steps, Step step, uint64_t begin_ns) {
  if (steps.size() == kMaxTraceSteps) return;
  steps.push_back({.step = step, .begin_ns = begin_ns, .end_ns = rehome_monotonic_ns()});
}

void KeepTrace(const EffectDependencies& dependencies, const Migration& last, Escrow escrow) {
  const std::unique_ptr<TraceArea> source = std::move(escrow.source_trace);
  const std::unique_ptr<TraceArea> target = std::move(escrow.target_trace);
  MigrationTrace trace{.steps = std::move(escrow.trace_steps)};
  escrow = Escrow();
  if (source == nullptr && target == nullptr) return;
  if (!trace.steps.empty()) NoteTraceStep(trace.steps, Step::kDone, trace.steps.back().end_ns);
  if (source != nullptr) trace.source = source->Read(last.vcpu_count);
  if (target != nullptr) trace.target = target->Read(last.vcpu_count);
  dependencies.keep_trace(last.id, trace);
}

}  // namespace rehome
