// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_host.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvmglue/fd.h"
#include "tests/harness/process.h"

namespace rehome::bench {
namespace {

constexpr char kBusybox[] = "/bin/busybox";
// A command that asks the kernel for one thing.
constexpr std::chrono::milliseconds kCommandTimeout{30'000};

absl::Status Busybox(const std::vector<std::string>& arguments) {
  const harness::TempDir directory;
  const std::string log = directory.File("log");
  harness::Process::Options options = {.argv = {kBusybox}, .log_path = log};
  options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
  absl::StatusOr<harness::Process> process = harness::Process::Start(options);
  if (!process.ok()) return process.status();
  const absl::StatusOr<int> status = process->WaitExit(kCommandTimeout);
  if (!status.ok()) return status.status();
  if (WIFEXITED(*status) && WEXITSTATUS(*status) == 0) return absl::OkStatus();
  std::ifstream file(log);
  const std::string said{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return absl::UnavailableError(
      absl::StrCat("busybox ", absl::StrJoin(arguments, " "), ": ", said));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TapInterface>> TapInterface::Make(const std::string& name,
                                                                 const std::string& address) {
  if (absl::Status status = Busybox({"tunctl", "-t", name}); !status.ok()) return status;
  std::unique_ptr<TapInterface> tap(new TapInterface(name));
  const absl::Status status =
      Busybox({"ifconfig", name, address, "netmask", "255.255.255.0", "up"});
  if (!status.ok()) return status;
  return tap;
}

TapInterface::~TapInterface() { Busybox({"tunctl", "-d", name_}).IgnoreError(); }

absl::Status MakeDisk(const std::string& path, uint64_t size_bytes) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file || ftruncate(file.borrow().raw(), static_cast<off_t>(size_bytes)) != 0) {
    return absl::ErrnoToStatus(errno, path);
  }
  return absl::OkStatus();
}

}  // namespace rehome::bench
