// SPDX-License-Identifier: Apache-2.0
#include "daemon/preflight.h"

#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/state_formats.h"
#include "daemon/strategy.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

using Result = PreflightCheck::Result;

// Collects results; knows nothing of what is checked.
class Report {
 public:
  explicit Report(std::vector<PreflightCheck>& checks) : checks_(checks) {}

  // Returns whether it passed.
  bool Add(std::string name, const absl::Status& status, std::string detail) {
    PreflightCheck check{.name = std::move(name), .detail = std::move(detail)};
    if (!status.ok()) {
      check.result = Result::kFailed;
      check.reason = ReasonOf(status);
      check.detail = std::string(status.message());
    }
    checks_.push_back(std::move(check));
    return status.ok();
  }
  void Skip(std::string name, std::string why) {
    checks_.push_back(
        {.name = std::move(name), .result = Result::kNotApplicable, .detail = std::move(why)});
  }

 private:
  std::vector<PreflightCheck>& checks_;
};

absl::Status CheckFeatures(uint32_t features, Strategy strategy, const char* who) {
  const uint32_t missing = RequiredFeatures(strategy) & ~features;
  if (missing == 0) return absl::OkStatus();
  return MakeStatus(
      absl::StatusCode::kFailedPrecondition, "AGENT_LACKS_FEATURE",
      absl::StrCat("the ", who, " VMM's agent lacks feature bits ", absl::Hex(missing),
                   " that strategy ", StrategyName(strategy), " needs"));
}

// mmap(2) of a guest_memfd gives ENODEV without GUEST_MEMFD_FLAG_MMAP (virt/kvm/guest_memfd.c). The
// page is not touched, so nothing is allocated.
bool IsMappable(BorrowedFd fd) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* address = mmap(nullptr, page, PROT_READ, MAP_SHARED, fd.raw(), 0);
  if (address == MAP_FAILED) return false;
  munmap(address, page);
  return true;
}

MemoryKinds InspectMemory(const VmDescription& vm) {
  MemoryKinds kinds{.all_guest_memfd = true, .all_mappable = true};
  for (const Memslot& slot : vm.layout.slots) {
    if ((slot.flags & kMemslotGuestMemfd) == 0) kinds.all_guest_memfd = false;
  }
  for (const UniqueFd& fd : vm.memory) {
    if (!IsMappable(fd.borrow())) kinds.all_mappable = false;
  }
  return kinds;
}

absl::Status CheckExecutable(const VmmProfile& profile) {
  const std::string& path = profile.command.front();
  if (access(path.c_str(), X_OK) == 0) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "PROFILE_NOT_EXECUTABLE",
                    absl::StrCat("profile ", profile.name, ": ", path, " cannot be executed"));
}

absl::Status CheckHolders(const PreflightInputs& inputs, const Escrow& escrow,
                          const Migration& record) {
  absl::StatusOr<HolderSearch> search =
      inputs.fence->FindHolders(escrow.MemoryInodes(), {record.source});
  if (!search.ok()) return search.status();
  const std::vector<InodeHolder> foreign = search->Foreign();
  if (foreign.empty()) return absl::OkStatus();
  const InodeHolder& first = foreign.front();
  return MakeStatus(
      absl::StatusCode::kFailedPrecondition, "MEMORY_HELD_BY_OTHERS",
      absl::StrCat(foreign.size(), " other process(es) hold the guest's memory, first pid ",
                   first.pid, " (", first.command, ", ", first.how,
                   "); the source could never be proven fenced"));
}

// `source`: null if it did not describe itself.
void CheckTargetProfile(const PreflightInputs& inputs, const Migration& record,
                        const VmDescription* source, Report& report) {
  absl::StatusOr<VmmProfile> profile = inputs.launcher->Profile(record.request.target_profile);
  if (!report.Add("target_profile", profile.status(), record.request.target_profile)) {
    report.Skip("target_executable", "no profile");
    report.Skip("state_format", "no profile");
    return;
  }
  report.Add("target_executable", CheckExecutable(*profile), profile->command.front());
  if (source == nullptr) {
    report.Skip("state_format", "the source did not answer");
  } else if (profile->reads_state_formats.empty()) {
    report.Skip("state_format", "the profile lists none; the target is asked when it runs");
  } else {
    const absl::StatusOr<uint32_t> format =
        AgreeOnStateFormat(record.source_vmm, WritesOf(*source), "profile " + profile->name,
                           EachAlone(profile->reads_state_formats));
    report.Add("state_format", format.status(), absl::StrCat("format ", format.value_or(0)));
  }
}

// Strategy, fence and memory of a source that has described itself.
void CheckSource(const PreflightInputs& inputs, Escrow& escrow, Migration& record, Report& report) {
  const VmDescription& source = *escrow.source;
  absl::StatusOr<Strategy> strategy =
      ChooseStrategy(source.vm_type, *inputs.host, InspectMemory(source));
  if (report.Add("strategy", strategy.status(), strategy.ok() ? StrategyName(*strategy) : "")) {
    record.strategy = *strategy;
    report.Add("source_features",
               CheckFeatures(escrow.source_link->hello().features, *strategy, "source"), "");
    absl::StatusOr<FencePolicy> policy = ResolveFencePolicy(*strategy, record.request.fence_policy);
    if (report.Add("fence_policy", policy.status(), "")) record.fence_policy = *policy;
  } else {
    report.Skip("source_features", "no strategy");
    report.Skip("fence_policy", "no strategy");
  }
  report.Add("source_killable", SendSignal(escrow.source_pidfd.borrow(), 0),
             "the fence may end the source's process");
  report.Add("memory_holders", CheckHolders(inputs, escrow, record),
             absl::StrCat(escrow.MemoryInodes().size(), " inode(s), held by the source alone"));
}

absl::Status Describe(const PreflightInputs& inputs, Interrupt& interrupt, Escrow& escrow,
                      Migration& record) {
  absl::StatusOr<UniqueFd> pidfd = Duplicate(escrow.source_link->pidfd());
  if (!pidfd.ok()) return pidfd.status();
  escrow.source_pidfd = *std::move(pidfd);
  record.source = escrow.source_link->process();
  const VmmHello& hello = escrow.source_link->hello();
  record.source_vmm = absl::StrCat(hello.vmm_name, " ", hello.vmm_version);

  absl::StatusOr<VmDescription> described = escrow.source_link->Describe(
      record.id, /*hold=*/!record.request.validate_only, inputs.agent_timeout, &interrupt);
  if (!described.ok()) return described.status();
  if (described->vm_id != record.request.vm_id) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "AGENT_PROTOCOL_VIOLATION",
                      absl::StrCat("asked for VM ", record.request.vm_id, ", the VMM described ",
                                   described->vm_id));
  }
  escrow.source = *std::move(described);
  record.vm_type = escrow.source->vm_type;
  record.vcpu_count = escrow.source->vcpu_count;
  record.memory_bytes = escrow.MemoryBytes();
  record.layout_digest = escrow.source->layout_digest;
  record.memory_inodes = escrow.MemoryInodes();
  return absl::OkStatus();
}

}  // namespace

void RunPreflight(const PreflightInputs& inputs, Interrupt& interrupt, Escrow& escrow,
                  Migration& record) {
  record.preflight.clear();
  Report report(record.preflight);
  absl::StatusOr<std::shared_ptr<VmmLink>> link = inputs.vms->LinkOf(record.request.vm_id);
  bool described = false;
  if (report.Add("source_registered", link.status(), record.request.vm_id)) {
    escrow.source_link = *std::move(link);
    described = report.Add("source_description", Describe(inputs, interrupt, escrow, record),
                           "layout well-formed, fds match it");
  } else {
    report.Skip("source_description", "no such VM");
  }
  if (described) {
    CheckSource(inputs, escrow, record, report);
  } else {
    for (const char* name :
         {"strategy", "source_features", "fence_policy", "source_killable", "memory_holders"}) {
      report.Skip(name, "the source did not describe itself");
    }
  }
  CheckTargetProfile(inputs, record, described ? &*escrow.source : nullptr, report);
}

Failure FirstFailure(const std::vector<PreflightCheck>& checks) {
  for (const PreflightCheck& check : checks) {
    if (check.result == Result::kFailed) return {check.reason, check.detail};
  }
  return {};
}

}  // namespace rehome
