// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/machine.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/pre_fault.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_state.h"
#include "vmm/reference/guest_loader.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/page_warmer.h"
#include "vmm/reference/private_memory.h"

namespace rehome {
namespace {

// An interrupt line of a VM's irqchip.
class VmInterruptLine final : public InterruptLine {
 public:
  VmInterruptLine(Vm& vm, uint32_t gsi) : vm_(vm), gsi_(gsi) {}
  void Set(bool high) override {
    // It fails for a VM that is dead, and then nobody misses it.
    if (const absl::Status status = vm_.SetIrqLine(gsi_, high); !status.ok()) status.IgnoreError();
  }

 private:
  Vm& vm_;
  const uint32_t gsi_;
};

// COM1's on a PC.
constexpr uint32_t kSerialInterrupt = 4;

absl::Status CheckHasLinux(const Host& host) {
  if (host.has_linux) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "GUEST_UNSUPPORTED",
                    "this version of the VMM runs the built-in guest only");
}

// What a Linux guest is booted from; all that can be wrong with it is found here.
absl::StatusOr<LinuxBoot> ReadLinuxBoot(const GuestOptions& options) {
  LinuxBoot boot = {.cmdline = options.cmdline, .vcpu_count = options.vcpus};
  boot.cmdline += VirtioCmdline(options.disks.size() + options.taps.size());
  auto image = ReadGuestImage(options.linux_image);
  if (!image.ok()) return image.status();
  boot.image = *std::move(image);
  if (!options.initramfs.empty()) {
    auto initramfs = ReadGuestImage(options.initramfs);
    if (!initramfs.ok()) return initramfs.status();
    boot.initramfs = *std::move(initramfs);
  }
  const std::vector<RamSlot> slots = PlanSlots(options.memory_mib << 20, options.memories);
  absl::Status status = CheckLinux(boot, slots.front().slot.size_bytes);
  if (!status.ok()) return status;
  return boot;
}

absl::Status CheckVcpuCount(KvmSyscalls& kernel, uint32_t count) {
  const absl::StatusOr<uint32_t> most = Vm::MaxVcpus(kernel);
  if (!most.ok()) return most.status();
  if (count <= *most) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInvalidArgument, "TOO_MANY_VCPUS",
                    absl::StrCat(count, " vCPUs; this kernel allows a VM ", *most, " at most"));
}

// A target's, of the descriptors that came with the configuration.
std::vector<DevicePart> PartsOf(const VmConfig& config, std::vector<UniqueFd> fds) {
  std::vector<DevicePart> parts;
  for (size_t i = 0; i < config.devices.size(); ++i) {
    parts.push_back({.config = config.devices[i], .fd = std::move(fds[i])});
  }
  return parts;
}

bool IsSev(VmType type) { return type == VmType::kSev || type == VmType::kSevEs; }

absl::StatusOr<std::unique_ptr<Console>> OpenConsole(const std::string& path) {
  return path.empty() ? Console::Unplugged() : Console::Listen(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Start(const Host& host,
                                                        const GuestOptions& options) {
  const auto plan = PlanRam(options.vm_type, options.memory_kind);
  if (!plan.ok()) return plan.status();
  absl::Status status = CheckVcpuCount(host.kernel, options.vcpus);
  if (!status.ok()) return status;
  absl::StatusOr<LinuxBoot> boot = LinuxBoot();
  absl::StatusOr<std::vector<DevicePart>> parts = std::vector<DevicePart>();
  if (options.is_linux()) {
    boot = ReadLinuxBoot(options);
    if (!boot.ok()) return boot.status();
    parts = OpenDevices(options.vm_id, options.disks, options.taps);
    if (!parts.ok()) return parts.status();
  }
  std::unique_ptr<Machine> machine(new Machine());
  machine->config_ = {.vm_id = options.vm_id,
                      .vm_type = options.vm_type,
                      .ram_bytes = options.memory_mib << 20,
                      .guest = options.is_linux() ? GuestKind::kLinux : GuestKind::kPayload};
  for (const DevicePart& part : *parts) machine->config_.devices.push_back(part.config);
  status = machine->CreateVm(host);
  if (status.ok() && IsSev(options.vm_type)) status = machine->vm_->InitSev();
  if (status.ok()) status = machine->vm_->CreateIrqchip();
  if (!status.ok()) return status;

  auto ram = GuestRam::Create(host.kernel, *machine->vm_, *plan, machine->config_.ram_bytes,
                              options.memories);
  if (!ram.ok()) return ram.status();
  machine->ram_ = *std::move(ram);
  for (uint32_t i = 0; i < options.vcpus; ++i) {
    auto cpuid = DefaultCpuid(host.kernel, i, options.vcpus);
    if (!cpuid.ok()) return cpuid.status();
    if (options.is_linux() && machine->vm_->HasTscDeadline()) AddTscDeadline(*cpuid);
    machine->config_.cpuid.push_back(*std::move(cpuid));
  }
  auto console = OpenConsole(options.console);
  if (!console.ok()) return console.status();
  status = machine->CreateDevices(host, *std::move(console), *std::move(parts));
  if (status.ok()) status = machine->CreateVcpus();
  if (status.ok()) {
    if (options.is_linux()) {
      status = machine->LoadLinuxGuest(*boot);
    } else {
      status = host.kind == KernelKind::kSim ? machine->LoadGuestForSim(options)
                                             : machine->LoadGuestForKvm(options);
    }
  }
  if (status.ok()) status = machine->SealMemory();
  if (!status.ok()) return status;
  return machine;
}

absl::StatusOr<std::unique_ptr<Machine>> Machine::Prepare(const Host& host, ReceivedVm received) {
  std::unique_ptr<Machine> machine(new Machine());
  machine->config_ = std::move(received.config);
  absl::Status status = machine->CreateVm(host);
  if (status.ok()) status = machine->vm_->CreateIrqchip();
  if (!status.ok()) return status;
  auto ram =
      GuestRam::TakeOver(host.kernel, *machine->vm_, received.access, std::move(received.slots),
                         std::move(received.memory), machine->config_.ram_bytes);
  if (!ram.ok()) return ram.status();
  machine->ram_ = *std::move(ram);
  status = machine->CreateDevices(host, std::move(received.console),
                                  PartsOf(machine->config_, std::move(received.devices)));
  if (status.ok()) status = machine->CreateVcpus();
  if (!status.ok()) return status;
  return machine;
}

absl::Status Machine::CreateVm(const Host& host) {
  if (config_.guest == GuestKind::kLinux) {
    if (absl::Status status = CheckHasLinux(host); !status.ok()) return status;
  }
  auto vm = Vm::Create(host.kernel, config_.vm_type, host.link_abi);
  if (!vm.ok()) return vm.status();
  vm_ = *std::move(vm);
  if (!host.sync_regs) vm_->DisableSyncRegs();
  return absl::OkStatus();
}

absl::Status Machine::CreateDevices(const Host& host, std::unique_ptr<Console> console,
                                    std::vector<DevicePart> parts) {
  if (config_.guest != GuestKind::kLinux) {
    devices_ = std::make_unique<Devices>(std::move(console), host.serial_depth);
    return absl::OkStatus();
  }
  std::vector<virtio::MappedGuestMemory::Region> ram;
  for (const MappedRange& range : MappedRanges()) ram.push_back({range.gpa, range.bytes});
  auto bus = VirtioBus::Create(*vm_, std::move(ram), std::move(parts));
  if (!bus.ok()) return bus.status();
  devices_ = std::make_unique<Devices>(
      std::move(console), host.serial_depth,
      LinuxDevices{.serial_interrupt = std::make_unique<VmInterruptLine>(*vm_, kSerialInterrupt),
                   .virtio = *std::move(bus)});
  return absl::OkStatus();
}

std::vector<MappedRange> Machine::MappedRanges() const {
  std::vector<MappedRange> ranges;
  for (const RamSlot& slot : ram_->slots()) {
    if (slot.slot.address_space != 0) continue;
    const std::span<std::byte> file = ram_->mapping(slot.memory_index);
    ranges.push_back(
        {.gpa = slot.slot.gpa, .bytes = file.subspan(slot.slot.offset, slot.slot.size_bytes)});
  }
  return ranges;
}

// The boot processor alone is set to run; the others it starts itself.
absl::Status Machine::LoadLinuxGuest(const LinuxBoot& boot) {
  const auto entry = LoadLinux(boot, MappedRanges());
  if (!entry.ok()) return entry.status();
  absl::Status status = StartLinuxVcpu(*entry, *vcpus_[0]);
  if (status.ok()) devices_->Thaw();
  return status;
}

// Memslots first: with the first vCPU some VM types fix what they protect.
absl::Status Machine::CreateVcpus() {
  absl::Status status = ram_->Bind(*vm_);
  for (uint32_t i = 0; status.ok() && i < config_.cpuid.size(); ++i) {
    auto vcpu = vm_->CreateVcpu(i);
    if (!vcpu.ok()) return vcpu.status();
    status = (*vcpu)->SetCpuid(config_.cpuid[i]);
    vcpus_.push_back(*std::move(vcpu));
  }
  if (!status.ok()) return status;
  auto file = WriteVmConfig(config_);
  if (!file.ok()) return file.status();
  config_file_ = *std::move(file);
  return absl::OkStatus();
}

absl::Status Machine::LoadGuestForKvm(const GuestOptions& options) {
  if (!ram_->mapped()) return LoadPrivateGuest(options);
  auto state = std::make_unique<VcpuState>();
  absl::Status status = vcpus_[0]->SaveState(*state);
  if (!status.ok()) return status;
  rehome_guest_boot_info boot = MakeBootInfo(options, *ram_);
  boot.timer = 1;
  boot.kvmclock = HasKvmclock(*state) ? 1 : 0;
  LoadGuest(boot, ram_->mapping(0).first(REHOME_GUEST_RESERVED));
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
    status = StartGuestVcpu(boot, *vcpu);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Without kvmclock, whose page KVM writes to shared memory, and without a timer, at whose end of
// interrupt KVM may look for the instruction there.
absl::Status Machine::LoadPrivateGuest(const GuestOptions& options) {
  if (config_.vm_type != VmType::kSwProtected) {
    return MakeStatus(absl::StatusCode::kFailedPrecondition, "GUEST_UNLOADABLE",
                      "the built-in guest cannot be put into private memory of this type");
  }
  absl::Status status = MakePrivate();
  if (!status.ok()) return status;
  std::vector<std::byte> image(REHOME_GUEST_RESERVED);
  rehome_guest_boot_info boot = MakeBootInfo(options, *ram_);
  LoadGuest(boot, image);
  status = CopyIntoPrivate(*vm_, *vcpus_[0], FreeSlot(), image);
  for (size_t i = 0; status.ok() && i < vcpus_.size(); ++i) {
    status = StartGuestVcpu(boot, *vcpus_[i]);
  }
  return status;
}

// Private memory is written through its file. Real kernels refuse that; it stands for the ioctls by
// which they let launch code in (KVM_TDX_INIT_MEM_REGION, KVM_SEV_SNP_LAUNCH_UPDATE).
absl::Status Machine::LoadGuestForSim(const GuestOptions& options) {
  rehome_guest_boot_info boot = MakeBootInfo(options, *ram_);
  boot.magic = REHOME_GUEST_MAGIC;
  if (ram_->mapped()) {
    std::memcpy(ram_->mapping(0).data() + REHOME_GUEST_BOOT_INFO, &boot, sizeof(boot));
  } else if (pwrite(ram_->file(0).raw(), &boot, sizeof(boot), REHOME_GUEST_BOOT_INFO) < 0) {
    return OsError("pwrite", "guest memory", errno);
  }
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus_) {
    absl::Status status = StartSimVcpu(*vcpu);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// What makes a confidential guest's memory its own.
absl::Status Machine::SealMemory() {
  if (IsSev(config_.vm_type)) {
    // What the guest consists of when it starts; the rest it gets as zeroes.
    const MemoryRange measured[] = {{.gpa = 0, .size_bytes = REHOME_GUEST_RESERVED}};
    return vm_->LaunchSev(measured);
  }
  return ram_->mapped() ? absl::OkStatus() : MakePrivate();
}

absl::Status Machine::MakePrivate() {
  for (const RamSlot& slot : ram_->slots()) {
    absl::Status status = vm_->SetPrivate(slot.slot.gpa, slot.slot.size_bytes, true);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Machine::PreFaultResident(KvmSyscalls& kernel,
                                                   std::chrono::milliseconds budget) {
  const auto end = std::chrono::steady_clock::now() + budget;
  uint64_t warmed = 0;
  bool is_over = false;
  const auto visited = ram_->VisitResident(
      ram_->size_bytes(), [&](uint64_t gpa, std::span<std::byte> run) -> absl::Status {
        const auto done = PreFault(kernel, vcpus_[0]->fd(), gpa, run.size(), end);
        if (!done.ok()) return done.status();
        warmed += *done;
        is_over = *done < run.size();
        // To look where the rest of a large memory is takes seconds by itself.
        return is_over ? absl::DeadlineExceededError("warming") : absl::OkStatus();
      });
  if (!visited.ok() && !is_over) return visited.status();
  return warmed;
}

absl::StatusOr<uint64_t> Machine::TouchResident(std::chrono::milliseconds budget) {
  // The memory says so too, but it is the guest's.
  if (config_.guest != GuestKind::kPayload) return 0;
  auto warmed = PageWarmer::Warm(*vm_, *vcpus_[0], *ram_, FreeSlot(), budget);
  if (warmed.ok() && *warmed > 0) {
    // Once more, because it has run: it spares the blackout setting what is so already.
    absl::Status status = vcpus_[0]->LearnState();
    if (!status.ok()) warmed = status;
  }
  return warmed;
}

absl::StatusOr<uint64_t> Machine::WarmUp(KvmSyscalls& kernel, std::chrono::milliseconds budget) {
  auto warmed = PreFaultResident(kernel, budget);
  if (absl::IsUnimplemented(warmed.status())) warmed = TouchResident(budget);
  // Or the guest's first KVM_RUN would come back before the guest has run, and count as its first.
  vcpus_[0]->ClearImmediateExit();
  return warmed;
}

uint32_t Machine::FreeSlot() const { return static_cast<uint32_t>(ram_->slots().size()); }

absl::StatusOr<std::unique_ptr<GuestMemoryReader>> Machine::OpenForCheck() {
  absl::StatusOr<std::unique_ptr<GuestMemoryReader>> reader = ram_->OpenForCheck();
  const bool copyable =
      config_.vm_type == VmType::kSwProtected && ram_->size_bytes() <= kPrivateCopyEnd;
  if (reader.ok() || !copyable) return reader;
  check_copy_.resize(ram_->size_bytes());
  absl::Status status = CopyOutOfPrivate(*vm_, *vcpus_[0], FreeSlot(), check_copy_);
  if (!status.ok()) return status;
  return std::make_unique<MappedGuestMemory>(
      std::vector<std::span<const std::byte>>{std::span<const std::byte>(check_copy_)});
}

}  // namespace rehome
