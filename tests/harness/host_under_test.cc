// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/host_under_test.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "grpcpp/client_context.h"
#include "kvmglue/fd.h"
#include "kvmglue/fd_passing.h"
#include "tests/harness/health.grpc.pb.h"
#include "tests/harness/proc.h"

namespace rehome::harness {
namespace {

using Clock = std::chrono::steady_clock;

// Between two looks at something that cannot be waited for.
constexpr int kPollMs = 2;
constexpr int kVersions[] = {1, 2};
constexpr mode_t kConfigMode = 0644;

// Nothing here is a stream of the library: a program that another thread starts meanwhile would
// inherit its descriptor.
std::string ReadFile(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char part[4096];
  ssize_t count = 0;
  while (file && (count = read(file.borrow().raw(), part, sizeof(part))) > 0) {
    text.append(part, static_cast<size_t>(count));
  }
  return text;
}

std::string ProgramOfVersion(int version) {
  return BinaryPath(absl::StrCat("vmm/reference/", ProfileOfVersion(version)));
}

// What that version reads (vmm/reference/version.cc), as an administrator would write it down.
const char* FormatsOfVersion(int version) { return version == 1 ? "[1]" : "[1, 2, 3]"; }

bool AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout) {
  pollfd poll_fd{.fd = pidfd.raw(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, static_cast<int>(timeout.count())) == 1;
}

}  // namespace

std::string ProfileOfVersion(int version) { return absl::StrCat("rehome-vmm-", version); }

std::string VmmOfVersion(int version) { return absl::StrCat("rehome-vmm ", version, ".0"); }

HostUnderTest::HostUnderTest(const HostOptions& options) : options_(options) {
  client_ = std::make_unique<MigrationClient>(ClientOptions{.socket_path = api_socket()});
}

absl::StatusOr<std::unique_ptr<HostUnderTest>> HostUnderTest::Start(const HostOptions& options) {
  std::unique_ptr<HostUnderTest> host(new HostUnderTest(options));
  if (host->directory().empty()) return absl::UnavailableError("no temporary directory");
  // VMMs whose daemon was killed are ours to reap then, and not left to whatever runs as process 1.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (absl::Status status = host->WriteConfig(); !status.ok()) return status;
  if (absl::Status status = host->StartDaemon(); !status.ok()) return status;
  return host;
}

HostUnderTest::~HostUnderTest() { KillAll(); }

absl::Status HostUnderTest::WriteConfig() const {
  DaemonConfigText config = {.kernel = options_.kernel,
                             .state_directory = state_directory(),
                             .api_socket = api_socket(),
                             .agent_socket = agent_socket(),
                             .more = options_.daemon_lines,
                             .profiles = options_.profiles};
  if (config.profiles.empty()) {
    for (const int version : kVersions) {
      ProfileConfig profile = {
          .name = ProfileOfVersion(version),
          .command = {ProgramOfVersion(version), "--target", "--kernel", options_.kernel},
          .environment = {},
          .more = {absl::StrCat("reads_state_formats = ", FormatsOfVersion(version))}};
      profile.command.insert(profile.command.end(), options_.target_arguments.begin(),
                             options_.target_arguments.end());
      config.profiles.push_back(std::move(profile));
    }
  }
  for (ProfileConfig& profile : config.profiles) {
    profile.environment[kHostVariable] = directory();
  }
  if (mkdir(state_directory().c_str(), 0700) != 0) {
    return absl::ErrnoToStatus(errno, state_directory());
  }
  const std::string text = ToToml(config);
  // Close-on-exec, which a std::ofstream is not: another thread may be starting a daemon.
  const UniqueFd file(
      open(config_path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kConfigMode));
  if (!file ||
      write(file.borrow().raw(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::ErrnoToStatus(errno, config_path());
  }
  return absl::OkStatus();
}

absl::Status HostUnderTest::StartDaemon() {
  const absl::Status launched = LaunchDaemon();
  return launched.ok() ? AwaitServing() : launched;
}

absl::Status HostUnderTest::LaunchDaemon() {
  Process::Options options = {.argv = {BinaryPath("daemon/rehomed"), "--config", config_path()},
                              .environment = options_.daemon_environment,
                              .log_path = directory_.File("rehomed.log")};
  options.environment[kHostVariable] = directory();
  absl::StatusOr<Process> daemon = options_.service_manager == nullptr
                                       ? Process::Start(options)
                                       : options_.service_manager->Start(options);
  if (!daemon.ok()) return daemon.status();
  daemon_ = *std::move(daemon);
  return absl::OkStatus();
}

absl::Status HostUnderTest::AwaitServing() {
  const std::unique_ptr<grpc::health::v1::Health::Stub> health =
      grpc::health::v1::Health::NewStub(NewApiChannel(api_socket()));
  const Clock::time_point deadline = Clock::now() + kStartTimeout;
  while (Clock::now() < deadline) {
    if (!daemon_.running()) {
      return absl::UnavailableError(absl::StrCat("rehomed has exited:\n", DaemonLog()));
    }
    // gRPC waits up to a second before it looks for the socket again; this does not.
    if (access(api_socket().c_str(), F_OK) == 0) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
      context.set_wait_for_ready(true);
      grpc::health::v1::HealthCheckResponse response;
      const grpc::Status status = health->Check(&context, {}, &response);
      if (status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
        return absl::OkStatus();
      }
    }
    poll(nullptr, 0, kPollMs);
  }
  return absl::DeadlineExceededError(absl::StrCat("rehomed does not serve:\n", DaemonLog()));
}

std::string HostUnderTest::DaemonLog() const { return ReadFile(directory_.File("rehomed.log")); }

std::string HostUnderTest::VmmLogs() const {
  std::string text;
  std::error_code ignored;
  for (const std::string& place : {directory(), state_directory() + "/vmm-logs"}) {
    for (const auto& entry : std::filesystem::directory_iterator(place, ignored)) {
      const std::string name = entry.path().filename().string();
      if (entry.path().extension() != ".log" || name == "rehomed.log") continue;
      absl::StrAppend(&text, "--- ", name, "\n", ReadFile(entry.path().string()));
    }
  }
  return text;
}

std::vector<std::string> HostUnderTest::VmmArguments(const VmmOptions& options) const {
  std::vector<std::string> arguments = {
      "--kernel",       options_.kernel,
      "--agent-socket", agent_socket(),
      "--vm-id",        options.vm_id,
      "--vm-type",      options.vm_type,
      "--memory",       absl::StrCat(options.memory_mib),
      "--vcpus",        absl::StrCat(options.vcpus),
      "--console",      directory_.File(options.vm_id + ".console"),
  };
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  return arguments;
}

absl::StatusOr<StartedVmm> HostUnderTest::StartVmm(const VmmOptions& options) {
  std::vector<std::string> argv = VmmArguments(options);
  argv.insert(argv.begin(), ProgramOfVersion(options.version));
  std::map<std::string, std::string> environment = options.environment;
  environment[kHostVariable] = directory();
  absl::StatusOr<Process> process =
      Process::Start({.argv = std::move(argv),
                      .environment = std::move(environment),
                      .log_path = directory_.File(options.vm_id + ".log")});
  if (!process.ok()) return process.status();
  StartedVmm vmm = {.vm_id = options.vm_id,
                    .console_path = directory_.File(options.vm_id + ".console"),
                    .process = *std::move(process)};
  const Clock::time_point deadline = Clock::now() + kVmmTimeout;
  while (Clock::now() < deadline) {
    if (!vmm.process.running()) {
      return absl::UnavailableError(
          absl::StrCat("the VMM has exited:\n", ReadFile(directory_.File(options.vm_id + ".log"))));
    }
    const absl::StatusOr<v1::VirtualMachine> vm = GetVm(options.vm_id);
    if (vm.ok() && vm->process().pid() == vmm.process.pid()) return vmm;
    poll(nullptr, 0, kPollMs);
  }
  return absl::DeadlineExceededError(
      absl::StrCat("VM ", options.vm_id, " does not register:\n",
                   ReadFile(directory_.File(options.vm_id + ".log"))));
}

absl::StatusOr<v1::VirtualMachine> HostUnderTest::GetVm(const std::string& vm_id) {
  v1::GetVirtualMachineRequest request;
  request.set_name("virtualMachines/" + vm_id);
  return client_->GetVirtualMachine(request);
}

absl::StatusOr<v1::Migration> HostUnderTest::Migrate(const std::string& vm_id,
                                                     const std::string& profile,
                                                     v1::Migration::FencePolicy fence_policy) {
  v1::CreateMigrationRequest request;
  request.set_vm("virtualMachines/" + vm_id);
  request.set_target_profile(profile);
  request.set_fence_policy(fence_policy);
  const absl::StatusOr<v1::Migration> created = client_->CreateMigration(request);
  if (!created.ok()) return created.status();
  return client_->WatchMigration(created->name(), {});
}

absl::Status HostUnderTest::StopVm(const std::string& vm_id) {
  const absl::StatusOr<v1::VirtualMachine> vm = GetVm(vm_id);
  if (!vm.ok()) return vm.status();
  const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(vm->process().pid());
  if (!pidfd.ok()) return pidfd.status();
  pidfd_send_signal(pidfd->borrow().raw(), SIGTERM, nullptr, 0);
  if (!AwaitExit(pidfd->borrow(), kVmmTimeout)) {
    return absl::DeadlineExceededError(
        absl::StrCat("VMM ", vm->process().pid(), " does not end after SIGTERM"));
  }
  const Clock::time_point deadline = Clock::now() + kVmmTimeout;
  while (Clock::now() < deadline) {
    if (absl::IsNotFound(GetVm(vm_id).status())) return absl::OkStatus();
    poll(nullptr, 0, kPollMs);
  }
  return absl::DeadlineExceededError(absl::StrCat("VM ", vm_id, " is still registered"));
}

absl::StatusOr<int> HostUnderTest::StopDaemon() {
  daemon_.Signal(SIGTERM);
  return daemon_.WaitExit(kVmmTimeout);
}

std::vector<pid_t> HostUnderTest::Processes() const {
  std::vector<pid_t> found;
  for (const pid_t pid : AllProcesses()) {
    // A zombie has no environment any more.
    if (EnvironmentVariable(pid, kHostVariable) == directory()) found.push_back(pid);
  }
  return found;
}

absl::Status HostUnderTest::ShutDown() {
  absl::Status result;
  for (const pid_t pid : Processes()) {
    if (pid == daemon_.pid()) continue;
    const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
    if (!pidfd.ok()) continue;
    pidfd_send_signal(pidfd->borrow().raw(), SIGTERM, nullptr, 0);
    if (AwaitExit(pidfd->borrow(), kVmmTimeout)) continue;
    result.Update(absl::DeadlineExceededError(absl::StrCat("process ", pid, " had to be killed")));
  }
  // gRPC reads a server's goodbye during calls only: an idle connection would cost the daemon all
  // of its grace.
  client_ = std::make_unique<MigrationClient>(ClientOptions{.socket_path = api_socket()});
  if (daemon_.running()) {
    const absl::StatusOr<int> status = StopDaemon();
    if (!status.ok()) {
      result.Update(status.status());
    } else if (!WIFEXITED(*status) || WEXITSTATUS(*status) != 0) {
      result.Update(absl::InternalError(absl::StrCat("rehomed ended with wait status ", *status)));
    }
  }
  KillAll();
  return result;
}

void HostUnderTest::KillAll() {
  // The daemon first: it would report, and perhaps answer, the deaths of the others.
  daemon_.KillAndReap();
  for (const pid_t pid : Processes()) {
    const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
    // Looked at again behind the pidfd, which cannot change its mind about who it is.
    if (!pidfd.ok() || EnvironmentVariable(pid, kHostVariable) != directory()) continue;
    pidfd_send_signal(pidfd->borrow().raw(), SIGKILL, nullptr, 0);
    AwaitExit(pidfd->borrow(), kVmmTimeout);
    // Nobody else will: its parent is dead, or it is a child of ours.
    waitpid(pid, nullptr, WNOHANG);
  }
}

}  // namespace rehome::harness
