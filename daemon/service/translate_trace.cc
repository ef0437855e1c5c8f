// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/translate_trace.h"

#include <array>
#include <cstdint>
#include <string>

#include "daemon/service/resource_names.h"
#include "daemon/service/translate.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/trace.h"

namespace rehome {
namespace {

// Of the phase that ends with each stamp, as Blackout.Phases names it; the first stamp begins all.
constexpr std::array<const char*, REHOME_PHASE_COUNT> kPhaseNames = {
    "", "stop_vcpus", "save_state", "claim", "move", "restore_state", "fence", "resume"};

void SetSpan(const std::string& name, uint64_t begin_ns, uint64_t end_ns,
             v1::MigrationTrace::Span* span) {
  span->set_name(name);
  span->set_begin_monotonic_ns(static_cast<int64_t>(begin_ns));
  span->set_end_monotonic_ns(static_cast<int64_t>(end_ns));
}

// As far as the stamps go without a gap.
void SetPhases(const PhaseTimes& at, v1::MigrationTrace* proto) {
  for (size_t i = 1; i < at.size() && at[i - 1] != 0 && at[i] >= at[i - 1]; ++i) {
    SetSpan(kPhaseNames[i], at[i - 1], at[i], proto->add_phases());
  }
}

void SetSide(const TraceSide& side, v1::MigrationTrace::Side* proto) {
  for (const TraceCall& call : side.calls) {
    v1::MigrationTrace::Call* const out = proto->add_calls();
    out->set_operation(TraceOperationName(call.operation));
    if (call.vcpu.has_value()) out->set_vcpu(static_cast<int32_t>(*call.vcpu));
    out->set_thread(static_cast<int32_t>(call.thread));
    out->set_begin_monotonic_ns(static_cast<int64_t>(call.begin_ns));
    out->set_end_monotonic_ns(static_cast<int64_t>(call.end_ns));
  }
  proto->set_dropped_calls(static_cast<int32_t>(side.dropped));
}

}  // namespace

v1::MigrationTrace ToProto(const MigrationTrace& trace, const Migration& migration) {
  v1::MigrationTrace proto;
  proto.set_name(TraceName(migration.id));
  for (const TraceStep& step : trace.steps) {
    SetSpan(StepName(step.step), step.begin_ns, step.end_ns, proto.add_steps());
  }
  SetPhases(migration.phases, &proto);
  *proto.mutable_source()->mutable_process() =
      ProcessToProto(migration.source, migration.source_vmm);
  *proto.mutable_target()->mutable_process() =
      ProcessToProto(migration.target, migration.target_vmm);
  SetSide(trace.source, proto.mutable_source());
  SetSide(trace.target, proto.mutable_target());
  proto.set_threshold_ns(REHOME_TRACE_THRESHOLD_NS);
  return proto;
}

}  // namespace rehome
