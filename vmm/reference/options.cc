// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/options.h"

#include <CLI/CLI.hpp>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "vmm/reference/guest/guest_abi.h"

namespace rehome {
namespace {

constexpr uint64_t kMib = 1 << 20;
// The loader's 2 MiB, and room for every vCPU to work in.
constexpr uint64_t kMinMemoryMib = 8;
// The loader's part lies in one file.
constexpr uint64_t kMinFileMib = REHOME_GUEST_RESERVED / kMib;
constexpr uint64_t kMaxMemoryMib = REHOME_GUEST_MAX_RAM / kMib;

// CLI11 checks against the keys and converts.
const std::map<std::string, VmType>& VmTypes() {
  static const std::map<std::string, VmType> kTypes = {
      {"default", VmType::kDefault}, {"sw-protected", VmType::kSwProtected},
      {"sev", VmType::kSev},         {"sev-es", VmType::kSevEs},
      {"snp", VmType::kSnp},         {"tdx", VmType::kTdx},
  };
  return kTypes;
}

void AddGuestOptions(CLI::App& app, GuestOptions& guest) {
  app.add_option("--vm-id", guest.vm_id, "name under which the VM is registered");
  app.add_option("--vm-type", guest.vm_type, "type of the VM")
      ->transform(CLI::CheckedTransformer(VmTypes()).description("TYPE"));
  app.add_option("--memory", guest.memory_mib, "RAM in MiB")
      ->check(CLI::Range(kMinMemoryMib, kMaxMemoryMib));
  app.add_option("--memory-kind", guest.memory_kind,
                 "what RAM is made of (auto, the default: what the VM type needs)")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, MemoryKind>{{"auto", MemoryKind::kAuto},
                                            {"gmem", MemoryKind::kGuestMemfd},
                                            {"memfd", MemoryKind::kMemfd}}));
  app.add_option("--memories", guest.memories, "files that RAM consists of")
      ->check(CLI::Range(1u, REHOME_GUEST_MAX_MEMORIES));
  app.add_option("--vcpus", guest.vcpus, "virtual CPUs")
      ->check(CLI::Range(1u, REHOME_GUEST_MAX_VCPUS));
  app.add_option("--console", guest.console, "UNIX socket to attach to the serial console");
  app.add_option("--heartbeat-ms", guest.heartbeat_ms, "time between heartbeat lines, 0: none");
  app.add_option("--step-ns", guest.step_ns,
                 "time between two steps of a vCPU's hash chain, 0: as fast as it goes");
  app.add_option("--working-set-pages", guest.working_set_pages,
                 "pages that each vCPU works on, spread over its part of RAM, 0: all");
  app.add_option("--seed", guest.seed, "of the hash chains");
}

// What makes no sense beside --linux.
constexpr const char* kPayloadOptions[] = {"--heartbeat-ms", "--step-ns", "--working-set-pages",
                                           "--seed", "--check-on-exit"};

DiskOption ToDisk(const std::string& text) {
  constexpr std::string_view kReadOnly = ",read-only";
  if (!text.ends_with(kReadOnly)) return {.path = text};
  return {.path = text.substr(0, text.size() - kReadOnly.size()), .read_only = true};
}

void AddLinuxOptions(CLI::App& app, GuestOptions& guest) {
  constexpr const char* kGroup = "A Linux guest";
  CLI::Option* image =
      app.add_option("--linux", guest.linux_image, "bzImage of a Linux to run as the guest")
          ->group(kGroup);
  const auto add = [&app, image](const char* name, auto& value, const char* what) {
    app.add_option(name, value, what)->needs(image)->group(kGroup);
  };
  add("--initramfs", guest.initramfs, "its initramfs");
  guest.cmdline = kDefaultCmdline;
  add("--cmdline", guest.cmdline, "its command line, to which the devices are added");
  app.add_option_function<std::vector<std::string>>(
         "--disk",
         [&guest](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) guest.disks.push_back(ToDisk(text));
         },
         "raw image for a virtio-blk device, FILE or FILE,read-only; repeatable")
      ->needs(image)
      ->group(kGroup);
  add("--tap", guest.taps, "tap interface for a virtio-net device; repeatable");
  for (const char* payload_option : kPayloadOptions) {
    image->excludes(app.get_option(payload_option));
  }
}

// Names as they were given; ToTestHooks() after parsing.
struct TestHookNames {
  std::string die_at, hang_at, stop_at, once_file, meet_socket, misbehave;
  std::vector<std::string> meet_at, without;
};

void AddTestHooks(CLI::App& app, TestHookNames& names) {
  constexpr const char* kGroup = "For tests";
  const auto add_place = [&app](const char* option, auto& place, const char* what) {
    return app.add_option(option, place, what)
        ->check(CLI::IsMember(HookPointNames()))
        ->group(kGroup);
  };
  add_place("--die-at", names.die_at, "die there as from SIGKILL");
  add_place("--hang-at", names.hang_at, "stop that thread there for ever");
  add_place("--stop-at", names.stop_at, "stop the whole process there as from SIGSTOP");
  app.add_option("--once", names.once_file, "die, hang or stop only if this file can be created")
      ->group(kGroup);
  CLI::Option* meet_at = add_place("--meet-at", names.meet_at,
                                   "wait there for whoever listens at --meet-socket; repeatable");
  CLI::Option* meet_socket =
      app.add_option("--meet-socket", names.meet_socket, "UNIX stream socket for --meet-at")
          ->group(kGroup);
  meet_at->needs(meet_socket);
  app.add_option("--misbehave", names.misbehave,
                 "as a target, answer PREPARE with a lie, or run too early")
      ->check(CLI::IsMember(MisbehaviourNames()))
      ->group(kGroup);
  app.add_option("--blackout-without", names.without,
                 "leave a step of the blackout out, to see what it is worth; repeatable")
      ->check(CLI::IsMember(BlackoutStepNames()))
      ->group(kGroup);
}

TestHooks ToTestHooks(const TestHookNames& names) {
  const auto place = [](const std::string& name) {
    return HookPointFromName(name).value_or(HookPoint::kNone);
  };
  TestHooks hooks = {
      .die_at = place(names.die_at),
      .hang_at = place(names.hang_at),
      .stop_at = place(names.stop_at),
      .meet_at = {},
      .meet_socket = names.meet_socket,
      .once_file = names.once_file,
      .misbehave = MisbehaviourFromName(names.misbehave).value_or(Misbehaviour::kNone),
      .without = {}};
  for (const std::string& name : names.meet_at) hooks.meet_at.push_back(place(name));
  for (const std::string& name : names.without) {
    if (const auto step = BlackoutStepFromName(name)) hooks.without.Add(*step);
  }
  return hooks;
}

std::string LinuxContradiction(const Options& options) {
  const GuestOptions& guest = options.guest;
  if (!guest.is_linux()) return "";
  if (options.target) return "--linux: a target takes the guest from the source";
  if (options.kernel != KernelKind::kKvm) return "--linux needs --kernel=kvm";
  if (guest.vm_type != VmType::kDefault) return "--linux needs --vm-type=default";
  if (guest.disks.size() + guest.taps.size() > kMaxDevices) {
    return "--disk, --tap: at most " + std::to_string(kMaxDevices) + " devices";
  }
  return "";
}

// What spans several options; "" if all is well.
std::string Contradiction(const Options& options) {
  const GuestOptions& guest = options.guest;
  if (!options.target && guest.vm_id.empty()) return "--vm-id is required";
  if (options.hooks.misbehave != Misbehaviour::kNone && !options.target) {
    return "--misbehave is for --target";
  }
  if (const std::string wrong = LinuxContradiction(options); !wrong.empty()) return wrong;
  if (guest.memory_mib % guest.memories != 0) return "--memory must be a multiple of --memories";
  if (guest.memory_mib / guest.memories < kMinFileMib) return "--memories: the files are too small";
  return "";
}

}  // namespace

ParsedOptions ParseOptions(int argc, const char* const* argv, const std::string& version) {
  ParsedOptions parsed;
  Options& options = parsed.options;
  TestHookNames hook_names;

  CLI::App app("The reference VMM of Rehome: runs a guest that can be moved, built in or a Linux.",
               "rehome-vmm");
  app.set_version_flag("--version", version);
  app.add_flag("--target", options.target,
               "take a guest over: the connection to rehomed is descriptor $REHOME_AGENT_FD");
  app.add_option("--kernel", options.kernel, "where KVM comes from")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, KernelKind>{{"kvm", KernelKind::kKvm}, {"sim", KernelKind::kSim}}));
  app.add_option("--sim", options.sim, "which kernel to simulate: types=...,move=...,link=...");
  app.add_option("--link-ioctl", options.link_ioctl, "number of KVM_LINK_GUEST_MEMFD")
      ->transform(CLI::Number)
      ->check(CLI::Range(0u, 0xffu));
  app.add_option("--agent-socket", options.agent_socket,
                 "rehomed's socket for agents [$REHOME_AGENT_SOCKET]")
      ->envname("REHOME_AGENT_SOCKET");
  app.add_option("--populate", options.populate_mib,
                 "as a target that maps memory: MiB of it to map in advance, 0: none");
  app.add_option("--warm-ms", options.warm_ms,
                 "as such a target: so long the guest's pages are touched in advance, so that KVM "
                 "has its page tables; 0: not at all");
  app.add_option("--spin-us", options.spin_us,
                 "as a target: busy-wait for the source's state so long before sleeping");
  app.add_flag("--check-on-exit", options.check_on_exit,
               "on SIGTERM tell whether the guest is intact; exit code 3 if it is not");
  AddGuestOptions(app, options.guest);
  AddLinuxOptions(app, options.guest);
  AddTestHooks(app, hook_names);
  app.add_option("--faults", options.faults, "plan of kernel calls that fail")->group("For tests");
  app.add_option("--fault-page", options.fault_page, "file by which a test lets kernel calls fail")
      ->group("For tests");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out;
    const int code = app.exit(error, out, out);
    return {.exit_now = true, .exit_code = code == 0 ? 0 : kUsageExitCode, .text = out.str()};
  }
  options.hooks = ToTestHooks(hook_names);
  if (const std::string wrong = Contradiction(options); !wrong.empty()) {
    return {.exit_now = true, .exit_code = kUsageExitCode, .text = wrong + "\n"};
  }
  return parsed;
}

}  // namespace rehome
