// SPDX-License-Identifier: Apache-2.0
//
// rehome-vmm: wiring only.
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/os_kvm_syscalls.h"
#include "kvmglue/sim/fault_injector.h"
#include "kvmglue/sim/fault_page.h"
#include "kvmglue/sim/simulated_kernel.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/traced_kvm.h"
#include "vmm/agent/trace.h"
#include "vmm/reference/log.h"
#include "vmm/reference/options.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/sim_cpu.h"
#include "vmm/reference/state_format.h"
#include "vmm/reference/version.h"
#include "vmm/reference/vmm.h"

namespace rehome {
namespace {

// A target's connection to rehomed is inherited; nobody else is to inherit it from us.
absl::StatusOr<UniqueFd> InheritedAgentConnection() {
  const char* text = std::getenv("REHOME_AGENT_FD");
  int fd = -1;
  if (text == nullptr || std::from_chars(text, text + std::strlen(text), fd).ec != std::errc() ||
      fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "NO_AGENT_CONNECTION",
                      "--target needs a descriptor in REHOME_AGENT_FD");
  }
  unsetenv("REHOME_AGENT_FD");
  return UniqueFd(fd);
}

// SIGTERM and SIGINT as a descriptor; blocked before there are threads, so that all have them
// blocked.
absl::StatusOr<UniqueFd> TakeSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return OsError("signalfd", "SIGTERM", errno);
  return fd;
}

absl::StatusOr<std::unique_ptr<KvmSyscalls>> OpenKernel(const Options& options, SimulatedCpu& cpu) {
  if (options.kernel == KernelKind::kKvm) return OpenRealKvm();
  auto simulated = ParseSimulatedKernelOptions(options.sim);
  if (!simulated.ok()) return simulated.status();
  return std::make_unique<SimulatedKernel>(*simulated, cpu);
}

absl::StatusOr<int> Main(const Options& options) {
  auto signals = TakeSignals();
  if (!signals.ok()) return signals.status();
  auto connection = options.target ? InheritedAgentConnection() : UniqueFd();
  if (!connection.ok()) return connection.status();
  SimGuestCpu cpu;
  auto kernel = OpenKernel(options, cpu);
  if (!kernel.ok()) return kernel.status();
  auto faults = ParseFaultPlan(options.faults, options.link_ioctl);
  if (!faults.ok()) return faults.status();
  absl::StatusOr<FaultPage*> page = nullptr;
  if (!options.fault_page.empty()) page = FaultPage::Open(options.fault_page);
  if (!page.ok()) return page.status();
  FaultInjector injector(**kernel, *std::move(faults), *page);
  const bool injects = !options.faults.empty() || *page != nullptr;
  const VmmVersion& version = ThisVersion();
  rehome_trace* const trace = rehome_trace_new();
  if (trace == nullptr) return OsError("mmap", "the trace", errno);
  const LinkAbi link_abi = {.ioctl_number = options.link_ioctl};
  TracedKvm traced(injects ? injector : **kernel, link_abi, trace);
  const Host host = {.kernel = traced,
                     .kind = options.kernel,
                     .link_abi = link_abi,
                     .serial_depth = SerialDepthOf(version.writes.newest),
                     .has_linux = version.has_linux(),
                     .sync_regs = !options.hooks.without.Has(BlackoutStep::kSyncRegs),
                     .trace = trace};
  Vmm vmm(options, host, version, signals->borrow(), *std::move(connection));
  // Not return: threads may be waiting in the kernel or in the agent library, and everything that
  // is open here is the kernel's to take back.
  _exit(vmm.Run());
}

}  // namespace
}  // namespace rehome

int main(int argc, char** argv) {
  const rehome::VmmVersion& version = rehome::ThisVersion();
  const rehome::ParsedOptions parsed =
      rehome::ParseOptions(argc, argv, std::string(version.name) + " " + version.version);
  if (parsed.exit_now) {
    std::fputs(parsed.text.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  const absl::StatusOr<int> exit_code = rehome::Main(parsed.options);
  if (exit_code.ok()) return *exit_code;
  rehome::Log("%s: %s", rehome::ReasonOf(exit_code.status()), exit_code.status().message());
  return rehome::kExitFailed;
}
