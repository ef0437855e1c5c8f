// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vmm.h"

#include <poll.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "kvmglue/status_reason.h"
#include "vmm/reference/guest_check.h"
#include "vmm/reference/log.h"
#include "vmm/reference/misbehaviour.h"

namespace rehome {
namespace {

// For the agent's thread to send an event that was queued before this process ends.
constexpr int kEventSendTimeMs = 100;

absl::Status NoGuest() {
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "NO_GUEST", "there is no guest here");
}

}  // namespace

Vmm::Vmm(const Options& options, const Host& host, const VmmVersion& version, BorrowedFd signals,
         UniqueFd agent_connection)
    : options_(options),
      host_(host),
      version_(version),
      signals_(signals),
      agent_connection_(std::move(agent_connection)) {}

Vmm::~Vmm() = default;

int Vmm::Run() {
  const absl::Status status = Start();
  if (!status.ok()) {
    Log("%s: %s", ReasonOf(status), status.message());
    return kExitFailed;
  }
  return Loop();
}

absl::Status Vmm::Start() {
  auto events = VmmEvents::Create();
  if (!events.ok()) return events.status();
  events_ = *std::move(events);
  options_.hooks.Reach(HookPoint::kStart);
  return options_.target ? StartTarget() : StartOwner();
}

absl::Status Vmm::StartOwner() {
  auto machine = Machine::Start(host_, options_.guest);
  if (!machine.ok()) return machine.status();
  machine_ = *std::move(machine);
  MakeCrew();
  absl::Status status = crew_->Start(nullptr);
  if (!status.ok()) return status;
  guest_ = Guest::kHere;
  Log("%s %s runs VM %s: %s, %u vCPUs, %u MiB in %u files", version_.name, version_.version,
      options_.guest.vm_id, std::string(VmTypeName(machine_->config().vm_type)),
      machine_->vcpu_count(), machine_->ram().size_bytes() >> 20, machine_->ram().file_count());
  if (options_.agent_socket.empty()) return absl::OkStatus();
  status = StartAgent(REHOME_ROLE_OWNER);
  if (!status.ok()) return status;
  const rehome_register registration = Registration();
  if (rehome_agent_register(agent_->agent(), &registration) == 0) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInvalidArgument, "VM_ID_INVALID",
                    "not a valid VM id: " + options_.guest.vm_id);
}

void Vmm::MakeCrew() {
  crew_ = std::make_unique<VcpuCrew>(machine_->vcpus(), machine_->devices(),
                                     static_cast<CrewListener&>(*this), options_.hooks.without);
  source_side_ = std::make_unique<SourceSide>(*machine_, *crew_, StateFormats(), options_.hooks);
}

absl::Status Vmm::StartTarget() { return StartAgent(REHOME_ROLE_TARGET); }

absl::Status Vmm::StartAgent(rehome_role role) {
  auto agent = AgentLink::Start({.role = role,
                                 .connection = std::move(agent_connection_),
                                 .socket_path = options_.agent_socket,
                                 .trace = host_.trace},
                                version_, *this);
  if (!agent.ok()) return agent.status();
  agent_ = *std::move(agent);
  return absl::OkStatus();
}

int Vmm::Loop() {
  for (;;) {
    pollfd fds[] = {{signals_.raw(), POLLIN, 0}, {events_->fd().raw(), POLLIN, 0}};
    if (poll(fds, std::size(fds), -1) < 0) continue;
    while (const std::optional<VmmEvent> event = events_->Take()) {
      if (const std::optional<int> exit_code = Handle(*event)) return *exit_code;
    }
    if (fds[0].revents != 0) return EndGuest();
  }
}

std::optional<int> Vmm::Handle(const VmmEvent& event) {
  switch (event.kind) {
    case VmmEvent::Kind::kFirstRun:
      OnGuestRunsHere();
      return std::nullopt;
    case VmmEvent::Kind::kPowerOff:
    case VmmEvent::Kind::kGuestFailed: {
      Log("the guest has ended: %s", event.text);
      const bool failed = event.kind == VmmEvent::Kind::kGuestFailed;
      if (failed && guest_ == Guest::kHere) {
        crew_->Stop();
        CheckGuest();
      }
      if (agent_ != nullptr) {
        // A guest that never ran here was not ours to lose: the daemon may still have its state.
        if (failed && guest_ == Guest::kNone) {
          rehome_target_first_run(agent_->agent(), nullptr, event.text.c_str());
        } else {
          rehome_agent_send_event(agent_->agent(), REHOME_EVENT_GUEST_STOPPED, event.text.c_str());
        }
        poll(nullptr, 0, kEventSendTimeMs);
      }
      if (guest_ != Guest::kNone) machine_->devices().console().RemoveSocketFile();
      return failed ? kExitFailed : kExitOk;
    }
    case VmmEvent::Kind::kTakeOverFailed:
      if (event.text.empty()) return std::nullopt;  // the library tells us to exit: Cancelled()
      Log("cannot take the guest over: %s", event.text);
      poll(nullptr, 0, kEventSendTimeMs);
      return kExitFailed;
  }
  return std::nullopt;
}

void Vmm::OnGuestRunsHere() {
  options_.hooks.Reach(HookPoint::kFirstRun);
  guest_ = Guest::kHere;
  const rehome_register registration = Registration();
  rehome_target_first_run(agent_->agent(), &registration, nullptr);
  machine_->devices().console().Release();
  // The descriptor of the source's VM would keep that in the kernel.
  target_side_.reset();
  proposal_.reset();
  Log("%s %s has taken VM %s over, hop %u", version_.name, version_.version,
      machine_->config().vm_id, machine_->devices().hops());
  options_.hooks.Reach(HookPoint::kOwner);
}

// SIGTERM. A migration that is being decided is decided first (rehome_agent_stop), so that the
// guest that ends is one that is here.
int Vmm::EndGuest() {
  if (guest_ == Guest::kNone) return kExitOk;
  agent_.reset();
  if (guest_ == Guest::kHandedOver) return kExitOk;
  crew_->Stop();
  machine_->devices().console().RemoveSocketFile();
  return options_.check_on_exit ? CheckGuest() : kExitOk;
}

int Vmm::CheckGuest() {
  // Nobody can recompute a Linux; it is judged from inside.
  if (machine_->config().guest == GuestKind::kLinux) return kExitOk;
  auto memory = machine_->OpenForCheck();
  absl::StatusOr<GuestReport> report =
      memory.ok() ? GuestChecker().Check(**memory) : absl::StatusOr<GuestReport>(memory.status());
  if (!report.ok()) {
    Log("the guest cannot be checked: %s", report.status().message());
    return kExitNotIntact;
  }
  if (!report->intact) {
    Log("the guest is NOT intact: %s", report->difference);
    return kExitNotIntact;
  }
  Log("the guest is intact: %u steps recomputed, %u pages compared, %u errors, %u hops",
      report->steps, report->pages_compared, report->errors, machine_->devices().hops());
  return kExitOk;
}

FormatRange Vmm::StateFormats() const {
  return machine_->config().guest == GuestKind::kLinux ? version_.writes_linux : version_.writes;
}

rehome_register Vmm::Registration() const {
  const VmConfig& config = machine_->config();
  rehome_register registration = {};
  std::memcpy(registration.vm_id, config.vm_id.data(),
              std::min(config.vm_id.size(), sizeof(registration.vm_id) - 1));
  registration.vm_type = static_cast<uint32_t>(config.vm_type);
  registration.vcpu_count = machine_->vcpu_count();
  registration.memory_bytes = machine_->ram().size_bytes();
  return registration;
}

// ---- AgentHandler: source

// Also where the guest has been handed over: a daemon may want the VM's descriptors once more.
absl::Status Vmm::Describe(bool hold, rehome_vm& vm) {
  if (guest_ == Guest::kNone) return NoGuest();
  source_side_->Describe(hold, vm);
  return absl::OkStatus();
}

absl::Status Vmm::ArmSource(rehome_block&, uint32_t state_format) {
  if (guest_ != Guest::kHere) return NoGuest();
  source_side_->Arm(state_format);
  return absl::OkStatus();
}

absl::Status Vmm::Quiesce(rehome_block& block) { return source_side_->Quiesce(block); }

absl::StatusOr<uint64_t> Vmm::PauseAndSave(rehome_block& block) {
  return source_side_->PauseAndSave(block);
}

uint64_t Vmm::LayoutDigest() { return source_side_->LayoutDigest(); }

absl::Status Vmm::ProbeVm() { return machine_ ? machine_->vm().Probe() : NoGuest(); }

void Vmm::Resume() { source_side_->Resume(); }

void Vmm::HandedOver() {
  guest_ = Guest::kHandedOver;
  options_.hooks.Reach(HookPoint::kHandedOver);
}

// At once: the guest's memory is not ours any more, and taking this process down in order would
// only take time.
void Vmm::Released() {
  options_.hooks.Reach(HookPoint::kRelease);
  _exit(kExitOk);
}

// ---- AgentHandler: target

absl::Status Vmm::Prepare(rehome_agent* agent, uint32_t strategy, const rehome_vm& source,
                          rehome_block& block, rehome_vm& target) {
  options_.hooks.Reach(HookPoint::kPrepare);
  auto proposal = ReadProposal(strategy, source);
  if (!proposal.ok()) return proposal.status();
  proposal_.emplace(*std::move(proposal));
  Misbind(options_.hooks.misbehave, proposal_->vm.slots);
  auto machine = Machine::Prepare(host_, std::move(proposal_->vm));
  if (!machine.ok()) return machine.status();
  machine_ = *std::move(machine);
  if (machine_->ram().mapped() && !proposal_->moves()) {
    const auto populated = machine_->ram().Populate(options_.populate_mib << 20);
    if (!populated.ok()) return populated.status();
    WarmUp();
  }
  if (absl::Status status = ForgetVcpus(); !status.ok()) return status;
  MakeCrew();
  target_side_ = std::make_unique<TargetSide>(
      *machine_, *proposal_, agent, block, *events_,
      TargetSide::Settings{.spin_ns = options_.spin_us * 1000ull, .hooks = options_.hooks});
  absl::Status status = crew_->Start(target_side_.get());
  if (!status.ok()) return status;
  DescribeBindings(*machine_, target);
  Misbehave(options_.hooks.misbehave, target, misbehaviour_prop_);
  options_.hooks.Reach(HookPoint::kPrepared);
  return absl::OkStatus();
}

// The simulated kernel has no page tables. What fails here costs the guest some time later on, and
// is no reason not to move it: all of the vCPU's state is still to be set.
void Vmm::WarmUp() {
  if (host_.kind != KernelKind::kKvm || options_.warm_ms == 0) return;
  const auto warmed = machine_->WarmUp(host_.kernel, std::chrono::milliseconds(options_.warm_ms));
  if (!warmed.ok()) Log("page tables are not warm: %s", warmed.status().ToString());
}

// Without BlackoutStep::kLearn: of a vCPU that has been in KVM_RUN nothing is known any more.
absl::Status Vmm::ForgetVcpus() {
  if (!options_.hooks.without.Has(BlackoutStep::kLearn)) return absl::OkStatus();
  for (const std::unique_ptr<Vcpu>& vcpu : machine_->vcpus()) {
    absl::Status status = vcpu->CompletePendingIo();
    if (!status.ok()) return status;
    vcpu->ClearImmediateExit();
  }
  return absl::OkStatus();
}

absl::Status Vmm::ArmTarget(rehome_block&) {
  options_.hooks.Reach(HookPoint::kArm);
  return absl::OkStatus();
}

void Vmm::Cancelled() {
  if (guest_ == Guest::kHere) {
    source_side_->Cancelled();
    return;
  }
  // A target that has no guest and will get none; its threads may be anywhere.
  Log("the migration is off");
  _exit(kExitOk);
}

// ---- CrewListener

void Vmm::OnGuestEnd(GuestEnd end, const std::string& text) {
  const bool wanted = end == GuestEnd::kPowerOff;
  events_->Post(wanted ? VmmEvent::Kind::kPowerOff : VmmEvent::Kind::kGuestFailed, text);
}

void Vmm::OnFirstRun() { events_->Post(VmmEvent::Kind::kFirstRun, ""); }

}  // namespace rehome
