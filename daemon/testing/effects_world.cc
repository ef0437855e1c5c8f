// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/effects_world.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "daemon/migration_effects.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

constexpr uint64_t kMemoryBytes = 1 << 20;
constexpr std::chrono::milliseconds kShort{150};

EffectTimeouts ShortTimeouts() {
  return {.agent = kShort,
          .launch = kShort,
          .prepare = kShort,
          .claim = kShort,
          .resolve = kShort,
          .first_run = kShort,
          .release = std::chrono::milliseconds(10),
          .exit = std::chrono::milliseconds(5000),
          .exit_per_gib = std::chrono::milliseconds(0),
          .resume = kShort};
}

VmmHello Hello(bool is_target) {
  return {.features = REHOME_FEATURES_ALL,
          .is_target = is_target,
          .state_format_write = 1,
          .state_format_read_min = 1,
          .state_format_read_max = 2,
          .vmm_name = "test-vmm",
          .vmm_version = "1"};
}

}  // namespace

WaitingChild::WaitingChild() {
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) pause();
  }
}

WaitingChild::~WaitingChild() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

UniqueFd WaitingChild::Pidfd() const { return *OpenPidfd(pid_); }

void WaitingChild::Kill() const {
  kill(pid_, SIGKILL);
  (void)AwaitExit(Pidfd().borrow(), std::chrono::seconds(10));
}

bool WaitingChild::alive() const { return !HasExited(Pidfd().borrow()); }

absl::Status ScriptedFence::Kill(BorrowedFd pidfd) {
  ++kills;
  return SendSignal(pidfd, SIGKILL);
}

absl::StatusOr<uint64_t> ScriptedFence::AwaitTasksStopped(BorrowedFd pidfd, const ProcessIdentity&,
                                                          std::chrono::milliseconds) {
  return AwaitExit(pidfd, std::chrono::seconds(10));
}

absl::StatusOr<uint64_t> ScriptedFence::AwaitExit(BorrowedFd pidfd,
                                                  std::chrono::milliseconds timeout) {
  if (rehome::AwaitExit(pidfd, timeout)) return rehome_monotonic_ns();
  return MakeStatus(absl::StatusCode::kDeadlineExceeded, "FENCE_TIMEOUT", "still alive");
}

absl::StatusOr<HolderSearch> ScriptedFence::FindHolders(
    const std::vector<InodeId>& inodes, const std::vector<ProcessIdentity>& allowed) {
  searched = inodes;
  if (on_search) on_search();
  if (!search_status.ok()) return search_status;
  HolderSearch search;
  search.begun_ns = rehome_monotonic_ns();
  for (const InodeId& inode : inodes) {
    InodeSearch& found = search.memory.emplace_back(InodeSearch{.inode = inode});
    if (allowed_holds) {
      found.holders.push_back({allowed.front().pid, "vmm", "fd", HolderClass::kTarget});
    }
    found.holders.insert(found.holders.end(), foreign.begin(), foreign.end());
    found.foreign = static_cast<uint32_t>(foreign.size());
  }
  return search;
}

absl::StatusOr<LaunchedVmm> ScriptedLauncher::Launch(const std::string&, const std::string&) {
  return launch();
}

absl::StatusOr<VmmProfile> ScriptedLauncher::Profile(const std::string& name) const {
  if (name == profile.name) return profile;
  return MakeStatus(absl::StatusCode::kNotFound, "PROFILE_NOT_FOUND", name);
}

EffectsWorld::EffectsWorld()
    : memory(memfd_create("memory", MFD_CLOEXEC)),
      vm(memfd_create("vm", MFD_CLOEXEC)),
      interrupt(*Interrupt::Create()) {
  if (ftruncate(memory.borrow().raw(), kMemoryBytes) != 0) abort();
  host.capabilities.push_back({.name = "vm_type_default", .available = true});

  const ProcessIdentity source_id{.pid = source_child.pid(), .start_ticks = 1};
  const ProcessIdentity target_id{.pid = target_child.pid(), .start_ticks = 2};
  source = std::make_shared<FakeVmmLink>(source_id, Hello(false));
  target = std::make_shared<FakeVmmLink>(target_id, Hello(true));
  source->set_pidfd(source_child.Pidfd());
  target->set_pidfd(target_child.Pidfd());
  source->script.describe = [this](const std::string&, bool) { return Describe(); };
  source->script.arm_source = [](const VmmLink::ArmSourceRequest&) { return absl::OkStatus(); };
  source->script.start = [](const std::string&) { return absl::OkStatus(); };
  source->script.cancel = [](const std::string&) { return absl::OkStatus(); };
  source->script.release = [](const std::string&) { return absl::OkStatus(); };
  target->script.prepare = [this](const VmmLink::PrepareRequest& request) {
    block_fd = *Duplicate(request.block);
    VmDescription prepared = Describe();
    prepared.config.Reset();
    if (spoil_target) spoil_target(prepared);
    return prepared;
  };
  target->script.arm_target = [](const std::string&) { return absl::OkStatus(); };
  launcher.launch = [this, target_id]() -> absl::StatusOr<LaunchedVmm> {
    LaunchedVmm launched;
    launched.pidfd = target_child.Pidfd();
    launched.process = target_id;
    return launched;
  };

  VmEntry entry;
  entry.vm_id = "vm-1";
  entry.vcpu_count = 1;
  if (!vms.Register(entry, "", source).ok()) abort();
  factory = NewMigrationEffectsFactory(Dependencies());
  effects = factory->Create("m-1");
}

EffectDependencies EffectsWorld::Dependencies() {
  return {
      .host = &host,
      .vms = &vms,
      .launcher = &launcher,
      .fence = &fence,
      .adopt_target = [this](LaunchedVmm&, std::chrono::milliseconds, Interrupt*)
          -> absl::StatusOr<std::shared_ptr<VmmLink>> { return std::shared_ptr<VmmLink>(target); },
      .timeouts = ShortTimeouts(),
      .store = &store,
      .fd_kinds = fd_kinds.get(),
      .await_link = [this](const ProcessIdentity& process, std::chrono::milliseconds,
                           Interrupt*) -> absl::StatusOr<std::shared_ptr<VmmLink>> {
        for (const std::shared_ptr<FakeVmmLink>& link : {source, target}) {
          if (link->process() == process && !link->closed()) {
            return std::shared_ptr<VmmLink>(link);
          }
        }
        return MakeStatus(absl::StatusCode::kDeadlineExceeded, "AGENT_TIMEOUT", "not connected");
      },
      .may_miss_records = [this] { return may_miss_records; }};
}

VmDescription EffectsWorld::Describe() const {
  VmDescription described;
  described.vm_id = "vm-1";
  described.vcpu_count = 1;
  described.state_capacity = 4096;
  described.state_format = 1;
  const FileIdentity file = *Identify(memory.borrow());
  described.layout.slots.push_back({.size_bytes = kMemoryBytes, .inode = file.id});
  described.layout_digest = described.layout.Digest();
  described.vm = *Duplicate(vm.borrow());
  described.memory.push_back(*Duplicate(memory.borrow()));
  return described;
}

Migration EffectsWorld::NewRecord(FencePolicy policy) const {
  Migration record;
  record.id = "m-1";
  record.request.vm_id = "vm-1";
  record.request.target_profile = "next";
  record.request.fence_policy = policy;
  return record;
}

Migration EffectsWorld::Armed(FencePolicy policy) {
  Migration record = Perform(Effect::kRunPreflight, NewRecord(policy)).update;
  record = Perform(Effect::kLaunchTarget, record).update;
  record = Perform(Effect::kPrepareTarget, record).update;
  return Perform(Effect::kArm, record).update;
}

Outcome EffectsWorld::Perform(Effect effect, const Migration& record) {
  return effects->Perform(effect, record, *interrupt);
}

rehome_block EffectsWorld::MapBlock() const {
  rehome_block block{};
  if (rehome_block_map(block_fd.borrow().raw(), &block) != 0) abort();
  return block;
}

void EffectsWorld::WalkTo(rehome_block& block, uint32_t verdict) {
  if (rehome_block_verdict(&block) != REHOME_VERDICT_OPEN) abort();
  WalkOn(block, verdict);
}

void EffectsWorld::WalkOn(rehome_block& block, uint32_t verdict) {
  for (uint32_t next = rehome_block_verdict(&block) + 1; next <= verdict; ++next) {
    if (rehome_block_move_verdict(&block, next - 1, next) != 0) abort();
  }
}

}  // namespace rehome
