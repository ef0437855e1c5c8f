// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <tuple>
// glibc 2.36 left __BEGIN_DECLS out of this header.
extern "C" {
#include <sys/pidfd.h>
}

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvmglue/fd_passing.h"

namespace rehome::harness {
namespace {

// How often a process that was told to stop is looked at.
constexpr int kStopPollMs = 1;

std::string ProcPath(pid_t pid, std::string_view name) {
  return absl::StrCat("/proc/", pid, "/", std::string(name));
}

// Not an ifstream: it throws when a process goes away between open(2) and read(2).
absl::StatusOr<std::string> ReadProc(pid_t pid, std::string_view name) {
  const std::string path = ProcPath(pid, name);
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return absl::ErrnoToStatus(errno, path);
  std::string text;
  while (true) {
    char buffer[16384];
    const ssize_t got = read(file.borrow().raw(), buffer, sizeof(buffer));
    if (got < 0) return absl::ErrnoToStatus(errno, path);
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
}

// Names in a directory of /proc; empty if it cannot be read.
std::vector<std::string> ListProc(const std::string& path) {
  std::vector<std::string> names;
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory)) {
    if (isdigit(static_cast<unsigned char>(entry->d_name[0]))) names.emplace_back(entry->d_name);
  }
  closedir(directory);
  return names;
}

bool Contains(const std::vector<InodeId>& inodes, const InodeId& inode) {
  return std::find(inodes.begin(), inodes.end(), inode) != inodes.end();
}

}  // namespace

absl::StatusOr<Mapping> ParseMapping(std::string_view line) {
  Mapping mapping;
  char permissions[5] = "";
  unsigned major = 0, minor = 0;
  int path_at = 0;
  const std::string text(line);
  const int fields = sscanf(text.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %lu %n",
                            &mapping.start, &mapping.end, permissions, &mapping.offset, &major,
                            &minor, &mapping.inode.inode, &path_at);
  if (fields != 7 || mapping.end < mapping.start) {
    return absl::InvalidArgumentError(absl::StrCat("no mapping: ", text));
  }
  mapping.inode.device = makedev(major, minor);
  mapping.writable = permissions[1] == 'w';
  mapping.shared = permissions[3] == 's';
  mapping.path = text.substr(path_at);
  return mapping;
}

absl::StatusOr<std::vector<Mapping>> MappingsOf(pid_t pid) {
  const absl::StatusOr<std::string> text = ReadProc(pid, "maps");
  if (!text.ok()) return text.status();
  std::vector<Mapping> mappings;
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    absl::StatusOr<Mapping> mapping = ParseMapping(std::string_view(line.data(), line.size()));
    if (!mapping.ok()) return mapping.status();
    mappings.push_back(*std::move(mapping));
  }
  return mappings;
}

absl::StatusOr<std::map<std::string, size_t>> OpenDescriptors(pid_t pid) {
  const std::string directory = ProcPath(pid, "fd");
  const std::vector<std::string> names = ListProc(directory);
  if (names.empty()) return absl::NotFoundError(directory);
  std::map<std::string, size_t> descriptors;
  for (const std::string& name : names) {
    char target[4096];
    const ssize_t size =
        readlink(absl::StrCat(directory, "/", name).c_str(), target, sizeof(target));
    // Gone since the list was made; in our own, the descriptor that the list was read through.
    if (size <= 0) continue;
    const std::string whole(target, static_cast<size_t>(size));
    const bool numbered = whole.starts_with("socket:[") || whole.starts_with("pipe:[");
    ++descriptors[numbered ? whole.substr(0, whole.find(':')) : whole];
  }
  return descriptors;
}

absl::StatusOr<uint64_t> StatusBytes(pid_t pid, std::string_view field) {
  const absl::StatusOr<std::string> text = ReadProc(pid, "status");
  if (!text.ok()) return text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (std::string_view(parts.first.data(), parts.first.size()) != field) continue;
    uint64_t kib = 0;
    if (sscanf(std::string(parts.second).c_str(), "%" SCNu64 " kB", &kib) == 1) return kib * 1024;
  }
  return absl::NotFoundError(absl::StrCat(std::string(field), " of process ", pid));
}

std::string ThreadStates(pid_t pid) {
  std::string states;
  for (const std::string& thread : ListProc(ProcPath(pid, "task"))) {
    const absl::StatusOr<std::string> stat = ReadProc(pid, absl::StrCat("task/", thread, "/stat"));
    // The name in parentheses may hold anything, so count from the last one.
    const size_t name_end = stat.ok() ? stat->rfind(") ") : std::string::npos;
    if (name_end != std::string::npos) states += (*stat)[name_end + 2];
  }
  return states;
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  for (const std::string& name : ListProc("/proc")) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(name, &pid)) pids.push_back(pid);
  }
  return pids;
}

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  for (const pid_t pid : AllProcesses()) {
    const absl::StatusOr<std::string> stat = ReadProc(pid, "stat");
    const size_t name_end = stat.ok() ? stat->rfind(") ") : std::string::npos;
    char state = 0;
    pid_t of = 0;
    if (name_end != std::string::npos &&
        sscanf(stat->c_str() + name_end + 2, "%c %d", &state, &of) == 2 && of == parent) {
      children.push_back(pid);
    }
  }
  return children;
}

std::string ExecutableName(pid_t pid) {
  char path[4096];
  const ssize_t size = readlink(ProcPath(pid, "exe").c_str(), path, sizeof(path));
  if (size <= 0) return "";
  const std::string whole(path, static_cast<size_t>(size));
  return whole.substr(whole.rfind('/') + 1);
}

std::string EnvironmentVariable(pid_t pid, const std::string& name) {
  const absl::StatusOr<std::string> text = ReadProc(pid, "environ");
  if (!text.ok()) return "";
  for (absl::string_view entry : absl::StrSplit(*text, '\0')) {
    const size_t equals = entry.find('=');
    if (equals != absl::string_view::npos && entry.substr(0, equals) == name) {
      return std::string(entry.substr(equals + 1));
    }
  }
  return "";
}

std::vector<Holder> HoldersOf(const std::vector<InodeId>& inodes) {
  std::vector<Holder> holders;
  for (const pid_t pid : AllProcesses()) {
    for (const std::string& fd : ListProc(ProcPath(pid, "fd"))) {
      struct stat status = {};
      if (stat(ProcPath(pid, "fd/" + fd).c_str(), &status) != 0) continue;
      if (Contains(inodes, {.device = status.st_dev, .inode = status.st_ino})) {
        holders.push_back({.pid = pid, .executable = ExecutableName(pid), .how = "fd " + fd});
      }
    }
    const absl::StatusOr<std::vector<Mapping>> mappings = MappingsOf(pid);
    if (!mappings.ok()) continue;
    for (const Mapping& mapping : *mappings) {
      if (!Contains(inodes, mapping.inode)) continue;
      holders.push_back({.pid = pid, .executable = ExecutableName(pid), .how = "mapping"});
      break;
    }
  }
  return holders;
}

std::vector<InodeId> GuestMemfdsOf(pid_t pid) {
  std::vector<InodeId> inodes;
  for (const std::string& fd : ListProc(ProcPath(pid, "fd"))) {
    const std::string path = ProcPath(pid, "fd/" + fd);
    struct stat status = {};
    std::error_code gone;
    const std::string name = std::filesystem::read_symlink(path, gone).string();
    if (gone || name.find("kvm-gmem") == std::string::npos) continue;
    if (stat(path.c_str(), &status) != 0) continue;
    const InodeId id = {.device = status.st_dev, .inode = status.st_ino};
    if (!Contains(inodes, id)) inodes.push_back(id);
  }
  std::sort(inodes.begin(), inodes.end(), [](const InodeId& a, const InodeId& b) {
    return std::tie(a.device, a.inode) < std::tie(b.device, b.inode);
  });
  return inodes;
}

ScopedStop::ScopedStop(UniqueFd pidfd) : pidfd_(std::move(pidfd)) {}
ScopedStop::ScopedStop(ScopedStop&& other) noexcept = default;

ScopedStop::~ScopedStop() {
  if (pidfd_) pidfd_send_signal(pidfd_.borrow().raw(), SIGCONT, nullptr, 0);
}

absl::StatusOr<ScopedStop> ScopedStop::Stop(pid_t pid, std::chrono::milliseconds timeout) {
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
  if (!pidfd.ok()) return pidfd.status();
  ScopedStop stop(*std::move(pidfd));
  if (pidfd_send_signal(stop.pidfd_.borrow().raw(), SIGSTOP, nullptr, 0) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("SIGSTOP to process ", pid));
  }
  // There is no event to wait for: only a parent is told that a process has stopped.
  for (int64_t waited = 0; waited <= timeout.count(); waited += kStopPollMs) {
    const std::string states = ThreadStates(pid);
    if (states.empty()) return absl::NotFoundError(absl::StrCat("process ", pid, " is gone"));
    if (states.find_first_not_of("Tt") == std::string::npos) return stop;
    poll(nullptr, 0, kStopPollMs);
  }
  return absl::DeadlineExceededError(absl::StrCat("process ", pid, " does not stop"));
}

}  // namespace rehome::harness
