// SPDX-License-Identifier: Apache-2.0
//
// The order of the blackout. Without MOVE nothing is lost until the target runs, so the commitment
// comes last:      wait, claim, restore, commit, [fence], running
// With MOVE protected parts of the state arrive by it, and the source is dead from then on:
//                  wait, claim, MOVE, commit, restore, [fence], running
#include "vmm/reference/target_side.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/wait.h"

namespace rehome {
namespace {

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "PROPOSAL_INVALID", what);
}

std::string Sentence(const absl::Status& status) {
  return ReasonOf(status) + ": " + std::string(status.message());
}

// Errors of MOVE that the kernel gives before it has changed anything (RFC v2 and 6.x SEV: argument
// and lock checks). Any other may come after the source's death.
bool LeavesSourceAlone(const absl::Status& move) {
  static constexpr std::array<const char*, 5> kHarmless = {
      "MOVE_UNSUPPORTED", "MOVE_MISMATCH", "MOVE_BUSY", "MOVE_BAD_SOURCE", "MOVE_INTERRUPTED"};
  const std::string reason = ReasonOf(move);
  return std::any_of(kHarmless.begin(), kHarmless.end(),
                     [&reason](const char* harmless) { return reason == harmless; });
}

absl::StatusOr<RamAccess> AccessFor(uint32_t strategy) {
  switch (static_cast<rehome_strategy>(strategy)) {
    case REHOME_STRATEGY_LINK_MOVE:
      return RamAccess::kBound;
    case REHOME_STRATEGY_LINK:
      return RamAccess::kBoundAndMapped;
    case REHOME_STRATEGY_MAP_MOVE:
    case REHOME_STRATEGY_MAP:
      return RamAccess::kMapped;
  }
  return Invalid(absl::StrCat("strategy ", strategy));
}

// The descriptors of a description, by role.
struct ReceivedFds {
  UniqueFd vm, config, listener, client;
  std::vector<UniqueFd> memory;
  std::array<UniqueFd, kMaxDevices> devices;
};

// Where a named descriptor belongs; nullptr for a device that this VMM does not have.
UniqueFd* NamedPlace(const std::string& name, ReceivedFds& fds) {
  if (name == kConsoleListenFd) return &fds.listener;
  if (name == kConsoleClientFd) return &fds.client;
  for (size_t i = 0; i < fds.devices.size(); ++i) {
    if (name == DeviceFdName(i)) return &fds.devices[i];
  }
  return nullptr;
}

absl::StatusOr<ReceivedFds> SortFds(const rehome_vm& source) {
  ReceivedFds fds;
  // Owned first, so that none is left open on an error.
  std::vector<UniqueFd> owned;
  for (uint32_t i = 0; i < source.fd_count; ++i) owned.emplace_back(source.fds[i].fd);
  fds.memory.resize(
      std::count_if(source.fds, source.fds + source.fd_count,
                    [](const rehome_vm_fd& fd) { return fd.entry.role == REHOME_FD_MEMORY; }));
  for (uint32_t i = 0; i < source.fd_count; ++i) {
    const rehome_fd_entry& entry = source.fds[i].entry;
    const std::string name(entry.name, strnlen(entry.name, sizeof(entry.name)));
    UniqueFd* place = nullptr;
    if (entry.role == REHOME_FD_VM) place = &fds.vm;
    if (entry.role == REHOME_FD_CONFIG) place = &fds.config;
    if (entry.role == REHOME_FD_MEMORY && entry.index < fds.memory.size()) {
      place = &fds.memory[entry.index];
    }
    if (entry.role == REHOME_FD_NAMED) place = NamedPlace(name, fds);
    if (place == nullptr && entry.role == REHOME_FD_NAMED) {
      return MakeStatus(absl::StatusCode::kUnimplemented, "DEVICE_UNKNOWN",
                        "this VMM has no device for descriptor " + name);
    }
    if (place == nullptr || place->valid()) {
      return Invalid(absl::StrCat("descriptor of role ", entry.role, " index ", entry.index));
    }
    *place = std::move(owned[i]);
  }
  return fds;
}

// As many as the configuration has devices, and those.
absl::StatusOr<std::vector<UniqueFd>> DevicesOf(const VmConfig& config, ReceivedFds& fds) {
  std::vector<UniqueFd> devices;
  for (size_t i = 0; i < fds.devices.size(); ++i) {
    if (fds.devices[i].valid() != (i < config.devices.size())) {
      return Invalid(absl::StrCat("descriptor and configuration of device ", i));
    }
    if (fds.devices[i].valid()) devices.push_back(std::move(fds.devices[i]));
  }
  return devices;
}

std::vector<RamSlot> SlotsOf(const rehome_vm& source) {
  std::vector<RamSlot> slots;
  for (uint32_t i = 0; i < source.slot_count; ++i) {
    const rehome_memslot& slot = source.slots[i];
    slots.push_back({.slot = {.slot = slot.slot,
                              .address_space = slot.address_space,
                              .gpa = slot.gpa,
                              .size_bytes = slot.size,
                              .offset = slot.offset},
                     .memory_index = slot.memory_index});
    slots.back().slot.inode = {slot.device, slot.inode};
  }
  return slots;
}

}  // namespace

absl::StatusOr<Proposal> ReadProposal(uint32_t strategy, const rehome_vm& source) {
  auto fds = SortFds(source);
  if (!fds.ok()) return fds.status();
  const auto access = AccessFor(strategy);
  if (!access.ok()) return access.status();
  Proposal proposal;
  proposal.strategy = strategy;
  proposal.state_format = source.state_format;
  if (proposal.moves() != fds->vm.valid()) return Invalid("the VM's descriptor");
  proposal.source_vm = std::move(fds->vm);
  for (const UniqueFd& memory : fds->memory) {
    if (!proposal.moves()) break;
    auto duplicate = Duplicate(memory.borrow());
    if (!duplicate.ok()) return duplicate.status();
    proposal.source_memory.push_back(*std::move(duplicate));
  }

  auto config = ReadVmConfig(fds->config.borrow());
  if (!config.ok()) return config.status();
  if (static_cast<uint32_t>(config->vm_type) != source.vm_type ||
      config->cpuid.size() != source.vcpu_count || config->vm_id != source.vm_id) {
    return Invalid("the configuration is of another VM");
  }
  const bool is_linux = config->guest == GuestKind::kLinux;
  if (is_linux != (source.state_format >= kLinuxStateFormat)) {
    return Invalid("a state format of another kind of guest");
  }
  if (is_linux && *access == RamAccess::kBound) return Invalid("devices without their memory");
  auto devices = DevicesOf(*config, *fds);
  if (!devices.ok()) return devices.status();
  auto console = fds->listener.valid()
                     ? Console::Adopt(std::move(fds->listener), std::move(fds->client))
                     : Console::Unplugged();
  if (!console.ok()) return console.status();
  proposal.vm = {.config = *std::move(config),
                 .access = *access,
                 .slots = SlotsOf(source),
                 .memory = std::move(fds->memory),
                 .console = *std::move(console),
                 .devices = *std::move(devices)};
  return proposal;
}

TargetSide::TargetSide(Machine& machine, const Proposal& proposal, rehome_agent* agent,
                       rehome_block& block, VmmEvents& events, const Settings& settings)
    : machine_(machine),
      proposal_(proposal),
      agent_(agent),
      block_(block),
      events_(events),
      settings_(settings),
      spin_(SpinBudget(machine.vcpu_count(), settings.hooks.without)),
      in_turn_(settings.hooks.without.Has(BlackoutStep::kParallel)),
      vcpu_states_(machine.vcpu_count()),
      vm_state_(std::make_unique<VmState>()),
      results_(machine.vcpu_count()) {
  device_state_.console.pending.reserve(kMaxPending);
  // Zeroing them is also what takes the page faults now and not in the blackout.
  std::memset(vcpu_states_.data(), 0, vcpu_states_.size() * sizeof(VcpuState));
  std::memset(vm_state_.get(), 0, sizeof(VmState));
}

bool TargetSide::Run(uint32_t index) {
  const int result = rehome_target_wait(agent_, settings_.spin_ns);
  if (index == 0) return Lead(result);
  return result == 0 && Follow(index);
}

void TargetSide::Advance(Stage stage) {
  stage_.store(stage);
  stage_.notify_all();
}

bool TargetSide::Off(const std::string& why) {
  Advance(kOff);
  events_.Post(VmmEvent::Kind::kTakeOverFailed, why);
  return false;
}

// Before the commitment the source can go on; after it nobody but us could, and we cannot.
bool TargetSide::Refuse(const absl::Status& why) {
  const std::string text = Sentence(why);
  if (committed_) {
    rehome_agent_send_event(agent_, REHOME_EVENT_TAKE_OVER_FAILED, text.c_str());
  } else {
    rehome_target_refuse(agent_, text.c_str());
  }
  return Off(text);
}

bool TargetSide::Lead(int wait_result) {
  if (wait_result == -ECANCELED) return Off("");
  if (wait_result != 0) return Off(absl::StrCat("no state to take over: ", wait_result));
  settings_.hooks.Reach(HookPoint::kReady);
  if (!Claim()) return false;
  if (proposal_.moves() && !(MoveContext() && Commit())) return false;
  if (!Restore()) return false;
  if (!proposal_.moves() && !Commit()) return false;
  return EnterRunning();
}

bool TargetSide::Follow(uint32_t index) {
  AwaitAtLeast(stage_, kMayRestore, spin_);
  if (stage_ == kOff) return false;
  if (in_turn_) AwaitAtLeast(restored_, index - 1, spin_);
  results_[index] = RestoreVcpu(index);
  restored_.fetch_add(1, std::memory_order_release);
  restored_.notify_all();
  AwaitAtLeast(stage_, kMayRun, spin_);
  return stage_ == kMayRun;
}

bool TargetSide::Claim() {
  if (rehome_target_claim(agent_) != 0) return Off("");
  settings_.hooks.Reach(HookPoint::kClaimed);
  return true;
}

bool TargetSide::MoveContext() {
  if (rehome_target_may_move(agent_) != 0) return Off("");
  settings_.hooks.Reach(HookPoint::kMoving);
  if (settings_.hooks.misbehave == Misbehaviour::kEarlyRun) return Refuse(RunEarly());
  const absl::Status status = machine_.vm().MoveEncContextFrom(proposal_.source_vm.borrow());
  if (status.ok()) {
    rehome_block_stamp(&block_, REHOME_PHASE_MOVED);
    settings_.hooks.Reach(HookPoint::kMoved);
    return true;
  }
  if (LeavesSourceAlone(status)) return Refuse(status);
  // The verdict stays CLAIMED: on proof of our exit the source finds out whether it is alive.
  const std::string text = Sentence(status);
  rehome_agent_send_event(agent_, REHOME_EVENT_TAKE_OVER_FAILED, text.c_str());
  return Off(text);
}

// All that a target can do by itself to run a guest that is not its own yet: everything but MOVE.
absl::Status TargetSide::RunEarly() {
  for (const RamSlot& slot : machine_.ram().slots()) {
    absl::Status status = machine_.vm().SetPrivate(slot.slot.gpa, slot.slot.size_bytes, true);
    if (!status.ok()) return status;
  }
  absl::Status status = RestoreVm();
  if (status.ok()) status = RestoreVcpu(0);
  if (!status.ok()) return status;
  Vcpu& vcpu = *machine_.vcpus()[0];
  vcpu.ClearImmediateExit();
  const absl::StatusOr<VcpuExit> exit = vcpu.Run();
  std::string came_of_it = exit.ok() ? vcpu.DescribeExit() : exit.status().ToString();
  if (exit.ok() && *exit == VcpuExit::kMemoryFault) {
    const MemoryFault fault = vcpu.fault();
    came_of_it = absl::StrCat("a memory fault at ", fault.gpa, fault.is_private ? ", private" : "");
  }
  return MakeStatus(absl::StatusCode::kUnknown, "EARLY_RUN",
                    absl::StrCat("KVM_RUN before MOVE: ", came_of_it));
}

bool TargetSide::Commit() {
  const int result = rehome_target_commit(agent_);
  if (result != 0) return Off(result == -ECANCELED ? "" : "the verdict could not be committed");
  committed_ = true;
  settings_.hooks.Reach(HookPoint::kCommitted);
  return true;
}

bool TargetSide::Restore() {
  absl::Status status = RestoreVm();
  if (!status.ok()) return Refuse(status);
  if (!in_turn_) Advance(kMayRestore);
  status = RestoreVcpu(0);
  if (in_turn_) Advance(kMayRestore);
  if (status.ok()) status = RestoreDevices();
  const absl::Status others = AwaitRestored();
  if (status.ok()) status = others;
  if (!status.ok()) return Refuse(status);
  rehome_block_stamp(&block_, REHOME_PHASE_RESTORED);
  settings_.hooks.Reach(HookPoint::kRestored);
  return true;
}

bool TargetSide::EnterRunning() {
  const int result = rehome_target_run(agent_);
  if (result != 0) {
    return Off(result == -ECANCELED ? "" : "no proof that the source has stopped");
  }
  settings_.hooks.Reach(HookPoint::kRunning);
  machine_.devices().Thaw();
  Advance(kMayRun);
  return true;
}

std::span<const std::byte> TargetSide::state() const {
  return {reinterpret_cast<const std::byte*>(block_.state), rehome_block_state_size(&block_)};
}

absl::StatusOr<StateReader> TargetSide::OpenState() const {
  return StateReader::Open(state(), proposal_.state_format, machine_.vcpu_count());
}

absl::Status TargetSide::RestoreVm() {
  const auto reader = OpenState();
  if (!reader.ok()) return reader.status();
  absl::Status status = reader->ReadVm(*vm_state_);
  return status.ok() ? machine_.vm().RestoreState(*vm_state_) : status;
}

absl::Status TargetSide::RestoreVcpu(uint32_t index) {
  const auto reader = OpenState();
  if (!reader.ok()) return reader.status();
  absl::Status status = reader->ReadVcpu(index, vcpu_states_[index]);
  return status.ok() ? machine_.vcpus()[index]->RestoreState(vcpu_states_[index]) : status;
}

absl::Status TargetSide::RestoreDevices() {
  const auto reader = OpenState();
  if (!reader.ok()) return reader.status();
  absl::Status status = reader->ReadDevices(device_state_);
  return status.ok() ? machine_.devices().Restore(device_state_) : status;
}

absl::Status TargetSide::AwaitRestored() {
  AwaitAtLeast(restored_, machine_.vcpu_count() - 1, spin_);
  for (const absl::Status& result : results_) {
    if (!result.ok()) return result;
  }
  return absl::OkStatus();
}

}  // namespace rehome
