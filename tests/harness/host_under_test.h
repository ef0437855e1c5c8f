// SPDX-License-Identifier: Apache-2.0
//
// A host in miniature: a rehomed of its own with sockets, state and configuration in a fresh
// directory, VMMs that it moves, and an account of what is left when all is over. Real programs, as
// they would be installed; several hosts can live beside each other on one machine.
#ifndef REHOME_TESTS_HARNESS_HOST_UNDER_TEST_H_
#define REHOME_TESTS_HARNESS_HOST_UNDER_TEST_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/migration_client.h"
#include "tests/harness/console_client.h"
#include "tests/harness/daemon_config.h"
#include "tests/harness/process.h"
#include "tests/harness/service_manager.h"

namespace rehome::harness {

// From exec to serving: 30 ms on a quiet machine; with a recovery, at loads of 14 to 100, a minute
// has been too little. Only a daemon that never serves is waited for so long.
inline constexpr std::chrono::milliseconds kStartTimeout{180'000};
// From SIGTERM to exit, and from exec to registered.
inline constexpr std::chrono::milliseconds kVmmTimeout{60'000};

// The variable by which processes of one host are found, whoever started them: the host's
// directory.
inline constexpr char kHostVariable[] = "HARNESS_HOST";

struct HostOptions {
  std::string kernel = "kvm";  // or "sim"
  // Added to [daemon] of the configuration.
  std::vector<std::string> daemon_lines;
  // Options for every target VMM.
  std::vector<std::string> target_arguments;
  // Added to the daemon's environment, at each of its starts.
  std::map<std::string, std::string> daemon_environment;
  // Starts the daemon and keeps its descriptors; must outlive the host. None: the harness does.
  ServiceManager* service_manager = nullptr;
  // Instead of the two versions of the reference VMM, ProfileOfVersion(1) and (2).
  std::vector<ProfileConfig> profiles;
};

// "rehome-vmm-1": the name of the program and of its profile.
std::string ProfileOfVersion(int version);
// "rehome-vmm 1.0": what it calls itself.
std::string VmmOfVersion(int version);

struct VmmOptions {
  std::string vm_id = "guest";
  int version = 1;
  std::string vm_type = "default";
  uint64_t memory_mib = 64;
  uint32_t vcpus = 1;
  std::vector<std::string> arguments;  // more options of rehome-vmm
  std::map<std::string, std::string> environment;
};

// A VMM that was started by hand, as an operator would, and runs a guest.
struct StartedVmm {
  std::string vm_id;
  std::string console_path;
  Process process;
};

// Not thread-safe; client() may be used from several threads.
class HostUnderTest {
 public:
  // Returns once the daemon says SERVING. The daemon's log is in the error.
  static absl::StatusOr<std::unique_ptr<HostUnderTest>> Start(const HostOptions& options);

  // Kills everything that belongs to this host and removes its directory.
  ~HostUnderTest();
  HostUnderTest(const HostUnderTest&) = delete;
  HostUnderTest& operator=(const HostUnderTest&) = delete;

  MigrationClient& client() { return *client_; }
  Process& daemon() { return daemon_; }
  const std::string& directory() const { return directory_.path(); }
  std::string api_socket() const { return directory_.File("api.sock"); }
  std::string agent_socket() const { return directory_.File("agent.sock"); }
  std::string state_directory() const { return directory_.File("state"); }
  std::string config_path() const { return directory_.File("rehomed.toml"); }
  std::string DaemonLog() const;
  // What VMMs of this host have written: those started by hand, and the daemon's.
  std::string VmmLogs() const;

  // Returns once the VM is registered.
  absl::StatusOr<StartedVmm> StartVmm(const VmmOptions& options);
  // VmmOptions as command line of the program; without the program itself.
  std::vector<std::string> VmmArguments(const VmmOptions& options) const;

  // Starts a migration and watches it to its end; its last record, whatever its state.
  absl::StatusOr<v1::Migration> Migrate(const std::string& vm_id, const std::string& profile,
                                        v1::Migration::FencePolicy fence_policy);
  absl::StatusOr<v1::VirtualMachine> GetVm(const std::string& vm_id);
  // SIGTERM to the VMM that runs the VM; returns once it has exited and the daemon has noticed.
  absl::Status StopVm(const std::string& vm_id);

  // SIGTERM; the exit status (waitpid(2)). `start` again with StartDaemon().
  absl::StatusOr<int> StopDaemon();
  void KillDaemon() { daemon_.KillAndReap(); }
  absl::Status StartDaemon();
  // The two halves of StartDaemon(): a daemon that is held in its recovery does not serve yet.
  absl::Status LaunchDaemon();
  absl::Status AwaitServing();

  // Every process that belongs to this host, zombies not counted.
  std::vector<pid_t> Processes() const;
  // SIGTERM to every VMM, SIGKILL to those that stay, SIGTERM to the daemon. An error names who had
  // to be killed, and is the first thing that went wrong; everything is gone in any case.
  absl::Status ShutDown();

 private:
  explicit HostUnderTest(const HostOptions& options);
  absl::Status WriteConfig() const;
  void KillAll();

  const HostOptions options_;
  TempDir directory_;
  Process daemon_;
  std::unique_ptr<MigrationClient> client_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_HOST_UNDER_TEST_H_
