// SPDX-License-Identifier: Apache-2.0
//
// What /proc says about processes that a test started, directly or through the daemon. Read without
// the daemon's code, so that a mistake there does not hide itself.
#ifndef REHOME_TESTS_HARNESS_PROC_H_
#define REHOME_TESTS_HARNESS_PROC_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome::harness {

// One line of /proc/PID/maps.
struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t offset = 0;  // into the file, bytes
  InodeId inode;        // {0, 0}: anonymous
  bool writable = false;
  bool shared = false;
  std::string path;  // "" or as the kernel writes it
  uint64_t size() const { return end - start; }
};

// The mapping that a line describes; INVALID_ARGUMENT for a line that is none.
absl::StatusOr<Mapping> ParseMapping(std::string_view line);

// NOT_FOUND if the process is gone, PERMISSION_DENIED if it is not ours to look into.
absl::StatusOr<std::vector<Mapping>> MappingsOf(pid_t pid);

// Descriptors open in the process, by what they lead to: a path, or the kernel's word without its
// number ("socket", "anon_inode:[eventfd]", "/memfd:name"). A symbolic link of /proc each.
absl::StatusOr<std::map<std::string, size_t>> OpenDescriptors(pid_t pid);

// Number in front of "kB" in a line of /proc/PID/status ("VmRSS", "RssAnon"), in bytes. NOT_FOUND.
absl::StatusOr<uint64_t> StatusBytes(pid_t pid, std::string_view field);

// Letters of field 3 of /proc/PID/task/*/stat, one per thread. Empty if the process is gone.
std::string ThreadStates(pid_t pid);

std::vector<pid_t> AllProcesses();

// Children of a process, zombies included.
std::vector<pid_t> ChildrenOf(pid_t parent);

// Name of the file that the process executes, without directories; "" if it cannot be read (a
// zombie, a kernel thread, somebody else's).
std::string ExecutableName(pid_t pid);

// Of the environment that it was started with; "" if it is not there.
std::string EnvironmentVariable(pid_t pid, const std::string& name);

// A process that has an inode open or mapped.
struct Holder {
  pid_t pid = 0;
  std::string executable;
  std::string how;  // "fd 7" or "mapping"
};
// Every process of the host that has one of `inodes`; this one included.
std::vector<Holder> HoldersOf(const std::vector<InodeId>& inodes);

// The guest_memfds that a process has open, sorted; each inode once. By the kernel's name for them,
// which Linux 6.19 changes.
std::vector<InodeId> GuestMemfdsOf(pid_t pid);

// A process in which no thread runs, until this object goes. Nothing of the process itself changes,
// unlike with a debugger. Not for a process that uses SIGSTOP for its own ends.
class ScopedStop {
 public:
  // SIGSTOP, and waits until every thread has stopped. DEADLINE_EXCEEDED: it runs on.
  static absl::StatusOr<ScopedStop> Stop(pid_t pid, std::chrono::milliseconds timeout);
  ScopedStop(ScopedStop&& other) noexcept;
  ScopedStop& operator=(ScopedStop&&) = delete;
  ~ScopedStop();

 private:
  explicit ScopedStop(UniqueFd pidfd);
  UniqueFd pidfd_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_PROC_H_
