// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal_codec.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "rehome/journal/v1/journal.pb.h"

namespace rehome {
namespace {

namespace pb = ::rehome::journal::v1;

// The numbers are shared, so an enum is carried over by value once it is known to be listed.
static_assert(int{pb::STATE_INDETERMINATE} == static_cast<int>(MigrationState::kIndeterminate));
static_assert(int{pb::State_MAX} == kMigrationStateCount);
static_assert(int{pb::STEP_UNRESOLVED} == static_cast<int>(Step::kUnresolved));
static_assert(int{pb::Step_MAX} == kStepCount);
static_assert(int{pb::OWNER_NOBODY} == static_cast<int>(GuestOwner::kNobody));
static_assert(int{pb::STRATEGY_MAP} == static_cast<int>(Strategy::kMap));
static_assert(int{pb::FENCE_POLICY_AFTER_RESUME} == static_cast<int>(FencePolicy::kAfterResume));
static_assert(int{pb::PreflightCheck::RESULT_NOT_APPLICABLE} ==
              static_cast<int>(PreflightCheck::Result::kNotApplicable));
static_assert(int{pb::InodeHolder::CLASS_FOREIGN} == static_cast<int>(HolderClass::kForeign));

// Bytes of the UTF-8 sequence that `lead` begins, 0 if it begins none (RFC 3629).
size_t LengthByLead(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return 3;
  return lead < 0xf5 ? 4 : 0;
}

// Length of the UTF-8 sequence at the start of `text`, 0 if it is none.
size_t SequenceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = LengthByLead(lead);
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF: told by the second byte.
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;
  if (lead == 0xed && byte(1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

// proto3 refuses to parse a string that is not UTF-8: one byte of somebody's process name would
// make the record unreadable.
std::string Mended(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const size_t step = std::max<size_t>(length, 1);
    if (out.size() + step > max_bytes) break;
    out.append(length == 0 ? std::string_view("?") : text.substr(0, length));
    text.remove_prefix(step);
  }
  return out;
}

std::string Name(std::string_view text) { return Mended(text, kMaxRecordedNameBytes); }
std::string Text(std::string_view text) { return Mended(text, kMaxRecordedTextBytes); }

void Put(const ProcessIdentity& from, pb::Process* to) {
  to->set_pid(from.pid);
  to->set_start_ticks(from.start_ticks);
  to->set_pidfd_inode(from.pidfd_inode);
}

ProcessIdentity Take(const pb::Process& from) {
  return {from.pid(), from.start_ticks(), from.pidfd_inode()};
}

void Put(const Failure& from, pb::Failure* to) {
  to->set_reason(Name(from.reason));
  to->set_message(Text(from.message));
}

Failure Take(const pb::Failure& from) { return {from.reason(), from.message()}; }

void Put(const MigrationRequest& from, pb::Request* to) {
  to->set_request_id(Name(from.request_id));
  to->set_vm_id(Name(from.vm_id));
  to->set_target_profile(Name(from.target_profile));
  to->set_fence_policy(static_cast<pb::FencePolicy>(from.fence_policy));
  to->set_handover_timeout_ms(from.handover_timeout.count());
  to->set_deadline_ms(from.deadline.count());
  to->set_requested_by(Text(from.requested_by));
}

void Put(const Observer& from, pb::Observer* to) {
  to->set_role(Name(from.role));
  Put(from.process, to->mutable_process());
}

Observer Take(const pb::Observer& from) { return {from.role(), Take(from.process())}; }

void Put(const HolderSearch& from, pb::FenceProof* to) {
  for (const InodeSearch& search : from.memory) {
    if (to->memory_size() == static_cast<int>(kMaxRecordedInodes)) break;
    pb::InodeSearch* inode = to->add_memory();
    inode->set_device(search.inode.device);
    inode->set_inode(search.inode.inode);
    inode->set_foreign(search.foreign);
    for (const InodeHolder& holder : search.holders) {
      if (inode->holders_size() == static_cast<int>(kMaxHoldersListed)) break;
      pb::InodeHolder* item = inode->add_holders();
      item->set_pid(holder.pid);
      item->set_command(Name(holder.command));
      item->set_how(Name(holder.how));
      item->set_holder_class(static_cast<pb::InodeHolder::Class>(holder.holder_class));
    }
  }
  to->set_search_begun_ns(from.begun_ns);
  to->set_init_shielded(from.init_shielded);
}

HolderSearch TakeSearch(const pb::FenceProof& from) {
  HolderSearch to;
  for (const pb::InodeSearch& inode : from.memory()) {
    InodeSearch search;
    search.inode = {.device = inode.device(), .inode = inode.inode()};
    search.foreign = inode.foreign();
    for (const pb::InodeHolder& item : inode.holders()) {
      search.holders.push_back(
          {item.pid(), item.command(), item.how(), static_cast<HolderClass>(item.holder_class())});
    }
    to.memory.push_back(std::move(search));
  }
  to.begun_ns = from.search_begun_ns();
  to.init_shielded = from.init_shielded();
  return to;
}

void Put(const FenceProof& from, pb::FenceProof* to) {
  to->set_kernel_vm_dead(from.kernel_vm_dead);
  Put(from.kernel_observer, to->mutable_kernel_observer());
  to->set_kernel_dead_seen_ns(from.kernel_dead_seen_ns);
  to->set_process_exited(from.process_exited);
  to->set_stopped_before_resume(from.stopped_before_resume);
  Put(from.stop_observer, to->mutable_stop_observer());
  Put(from.observer, to->mutable_observer());
  Put(from.source, to->mutable_source());
  to->set_kill_sent_ns(from.kill_sent_ns);
  to->set_tasks_stopped_ns(from.tasks_stopped_ns);
  to->set_exited_ns(from.exited_ns);
  Put(from.search, to);
  to->set_kernel_release(Name(from.kernel_release));
}

FenceProof Take(const pb::FenceProof& from) {
  FenceProof to;
  to.kernel_vm_dead = from.kernel_vm_dead();
  to.kernel_observer = Take(from.kernel_observer());
  to.kernel_dead_seen_ns = from.kernel_dead_seen_ns();
  to.process_exited = from.process_exited();
  to.stopped_before_resume = from.stopped_before_resume();
  to.stop_observer = Take(from.stop_observer());
  to.observer = Take(from.observer());
  to.source = Take(from.source());
  to.kill_sent_ns = from.kill_sent_ns();
  to.tasks_stopped_ns = from.tasks_stopped_ns();
  to.exited_ns = from.exited_ns();
  to.search = TakeSearch(from);
  to.kernel_release = from.kernel_release();
  return to;
}

void Put(const Rescue& from, pb::Rescue* to) {
  to->set_attempts(from.attempts);
  Put(from.dead_target, to->mutable_dead_target());
  Put(from.cause, to->mutable_cause());
  to->set_context_from_target(from.context_from_target);
  for (const Failure& failure : from.failed_attempts) Put(failure, to->add_failed_attempts());
}

Rescue Take(const pb::Rescue& from) {
  Rescue to = {from.attempts(), Take(from.dead_target()), Take(from.cause()),
               from.context_from_target()};
  for (const pb::Failure& failure : from.failed_attempts()) {
    NoteFailedAttempt(Take(failure), &to);
  }
  return to;
}

void PutInodes(const Migration& from, pb::Record* to) {
  for (const InodeId& inode : from.memory_inodes) {
    if (to->memory_inodes_size() == static_cast<int>(kMaxRecordedListItems)) break;
    pb::Inode* item = to->add_memory_inodes();
    item->set_device(inode.device);
    item->set_inode(inode.inode);
  }
}

void PutPreflight(const Migration& from, pb::Record* to) {
  for (const PreflightCheck& check : from.preflight) {
    if (to->preflight_size() == static_cast<int>(kMaxRecordedListItems)) break;
    pb::PreflightCheck* item = to->add_preflight();
    item->set_name(Name(check.name));
    item->set_result(static_cast<pb::PreflightCheck::Result>(check.result));
    item->set_reason(Name(check.reason));
    item->set_detail(Text(check.detail));
  }
}

// First field whose enum value this version does not know, or "".
std::string UnknownValue(const pb::Record& record) {
  if (record.state() == 0 || !pb::State_IsValid(record.state())) return "state";
  if (record.step() == 0 || !pb::Step_IsValid(record.step())) return "step";
  if (record.owner() == 0 || !pb::Owner_IsValid(record.owner())) return "owner";
  if (record.strategy() == 0 || !pb::Strategy_IsValid(record.strategy())) return "strategy";
  if (!pb::FencePolicy_IsValid(record.fence_policy())) return "fence_policy";
  if (!pb::FencePolicy_IsValid(record.request().fence_policy())) return "request.fence_policy";
  if (!VmTypeFromNumber(record.vm_type()).has_value()) return "vm_type";
  const pb::State outcome = record.outcome_after_rollback();
  if (outcome != pb::STATE_FAILED && outcome != pb::STATE_CANCELLED) {
    return "outcome_after_rollback";
  }
  for (const pb::PreflightCheck& check : record.preflight()) {
    if (check.result() == 0 || !pb::PreflightCheck::Result_IsValid(check.result())) {
      return "preflight.result";
    }
  }
  for (const pb::InodeSearch& inode : record.fence().memory()) {
    for (const pb::InodeHolder& holder : inode.holders()) {
      if (holder.holder_class() == 0 || !pb::InodeHolder::Class_IsValid(holder.holder_class())) {
        return "fence.memory.holders.holder_class";
      }
    }
  }
  if (!pb::Step_IsValid(record.interrupted_step())) return "interrupted_step";
  if (record.phase_ns_size() != static_cast<int>(PhaseTimes{}.size())) return "phase_ns";
  return "";
}

void TakeRequest(const pb::Request& from, MigrationRequest* to) {
  to->request_id = from.request_id();
  to->vm_id = from.vm_id();
  to->target_profile = from.target_profile();
  to->fence_policy = static_cast<FencePolicy>(from.fence_policy());
  to->handover_timeout = std::chrono::milliseconds(from.handover_timeout_ms());
  to->deadline = std::chrono::milliseconds(from.deadline_ms());
  to->requested_by = from.requested_by();
}

// REQUIRES: UnknownValue(from) is "".
Migration TakeRecord(const pb::Record& from) {
  Migration to;
  to.id = from.id();
  TakeRequest(from.request(), &to.request);
  to.state = static_cast<MigrationState>(from.state());
  to.step = static_cast<Step>(from.step());
  to.owner = static_cast<GuestOwner>(from.owner());
  to.revision = from.revision();
  to.cancel_requested = from.cancel_requested();
  to.strategy = static_cast<Strategy>(from.strategy());
  to.fence_policy = static_cast<FencePolicy>(from.fence_policy());
  to.vm_type = *VmTypeFromNumber(from.vm_type());
  for (const pb::PreflightCheck& item : from.preflight()) {
    to.preflight.push_back({item.name(), static_cast<PreflightCheck::Result>(item.result()),
                            item.reason(), item.detail()});
  }
  to.source = Take(from.source());
  to.target = Take(from.target());
  to.source_vmm = from.source_vmm();
  to.target_vmm = from.target_vmm();
  to.memory_bytes = from.memory_bytes();
  to.vcpu_count = from.vcpu_count();
  to.layout_digest = from.layout_digest();
  std::copy(from.phase_ns().begin(), from.phase_ns().end(), to.phases.begin());
  to.fence = Take(from.fence());
  to.failure = Take(from.failure());
  to.outcome_after_rollback = static_cast<MigrationState>(from.outcome_after_rollback());
  to.journal_failure = Take(from.journal_failure());
  to.create_time_unix_ns = from.create_time_unix_ns();
  to.end_time_unix_ns = from.end_time_unix_ns();
  to.boot_id = from.boot_id();
  for (const pb::Inode& item : from.memory_inodes()) {
    to.memory_inodes.push_back({item.device(), item.inode()});
  }
  to.armed_ns = from.armed_ns();
  if (from.interrupted_step() != 0) {
    to.interrupted_step = static_cast<Step>(from.interrupted_step());
  }
  to.restarts = from.restarts();
  to.rescue = Take(from.rescue());
  return to;
}

}  // namespace

std::string EncodeRecord(const Migration& migration) {
  pb::Record record;
  record.set_id(Name(migration.id));
  Put(migration.request, record.mutable_request());
  record.set_state(static_cast<pb::State>(migration.state));
  record.set_step(static_cast<pb::Step>(migration.step));
  record.set_owner(static_cast<pb::Owner>(migration.owner));
  record.set_revision(migration.revision);
  record.set_cancel_requested(migration.cancel_requested);
  record.set_strategy(static_cast<pb::Strategy>(migration.strategy));
  record.set_fence_policy(static_cast<pb::FencePolicy>(migration.fence_policy));
  record.set_vm_type(static_cast<uint32_t>(migration.vm_type));
  PutPreflight(migration, &record);
  Put(migration.source, record.mutable_source());
  Put(migration.target, record.mutable_target());
  record.set_source_vmm(Name(migration.source_vmm));
  record.set_target_vmm(Name(migration.target_vmm));
  record.set_memory_bytes(migration.memory_bytes);
  record.set_vcpu_count(migration.vcpu_count);
  record.set_layout_digest(migration.layout_digest);
  record.mutable_phase_ns()->Add(migration.phases.begin(), migration.phases.end());
  Put(migration.fence, record.mutable_fence());
  Put(migration.failure, record.mutable_failure());
  record.set_outcome_after_rollback(static_cast<pb::State>(migration.outcome_after_rollback));
  Put(migration.journal_failure, record.mutable_journal_failure());
  record.set_create_time_unix_ns(migration.create_time_unix_ns);
  record.set_end_time_unix_ns(migration.end_time_unix_ns);
  record.set_boot_id(Name(migration.boot_id));
  PutInodes(migration, &record);
  record.set_armed_ns(migration.armed_ns);
  if (migration.interrupted_step.has_value()) {
    record.set_interrupted_step(static_cast<pb::Step>(*migration.interrupted_step));
  }
  record.set_restarts(migration.restarts);
  Put(migration.rescue, record.mutable_rescue());
  return record.SerializeAsString();
}

absl::StatusOr<Migration> DecodeRecord(std::string_view bytes) {
  const auto corrupt = [](std::string_view what) {
    return MakeStatus(absl::StatusCode::kDataLoss, reason::kJournalCorrupt, what);
  };
  if (bytes.size() > kMaxRecordBytes) return corrupt("a record is too large");
  // Used again for the next one: a start decodes ten thousand, and most of the time went into
  // memory for the parts of a message.
  static thread_local pb::Record record;
  if (!record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return corrupt("a record does not parse");
  }
  const std::string unknown = UnknownValue(record);
  if (!unknown.empty()) {
    return corrupt(absl::StrCat("record ", record.id(), ": bad value of ", unknown));
  }
  return TakeRecord(record);
}

}  // namespace rehome
