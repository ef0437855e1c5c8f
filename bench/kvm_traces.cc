// SPDX-License-Identifier: Apache-2.0
#include "bench/kvm_traces.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "daemon/proc_files.h"
#include "daemon/process_identity.h"

namespace rehome::bench {
namespace {

// Longer than any of KVM's names, and cut off is none of them.
constexpr size_t kMaxLink = 128;

// include/linux/sched.h: a thread of the kernel's in the process (KVM has one for each VM). It
// never leaves the kernel, and shows the call in which it was made for ever.
constexpr uint32_t kPfUserWorker = 0x4000;

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace

bool IsKvmFile(std::string_view link) {
  return link == "/dev/kvm" || link.starts_with("anon_inode:kvm-") ||
         link.starts_with("anon_inode:[kvm-gmem]");
}

absl::StatusOr<KvmTraces> FindKvmTraces(pid_t pid) {
  KvmTraces traces;
  const std::string path = ProcPath(pid);
  const absl::StatusOr<std::vector<int32_t>> fds = ListNumbers(path + "/fd");
  if (!fds.ok()) return fds.status();
  for (const int32_t fd : *fds) {
    std::array<char, kMaxLink> link;
    const ssize_t size = readlink(absl::StrCat(path, "/fd/", fd).c_str(), link.data(), link.size());
    if (size > 0 && IsKvmFile({link.data(), static_cast<size_t>(size)})) {
      traces.descriptors.push_back(fd);
    }
  }
  std::ifstream maps(path + "/maps");
  for (std::string line; std::getline(maps, line);) {
    const bool is_vcpu = Contains(line, "anon_inode:kvm-vcpu");
    const bool is_memory = Contains(line, "[kvm-gmem]");
    if (!is_vcpu && !is_memory) continue;
    const Mapping mapping = ParseMapping(line).value_or(Mapping());
    (is_vcpu ? traces.vcpu_mappings : traces.memory_mappings)
        .push_back({.begin = mapping.begin, .end = mapping.end});
  }
  return traces;
}

bool MayBeInKvmRun(std::string_view syscall) {
  long number = -1;
  if (std::from_chars(syscall.data(), syscall.data() + syscall.size(), number).ec != std::errc()) {
    return true;  // "running"
  }
  return number < 0 || number == SYS_ioctl;
}

bool NoTaskInKvmRun(pid_t pid) {
  const std::string path = ProcPath(pid) + "/task";
  const absl::StatusOr<std::vector<int32_t>> tasks = ListNumbers(path);
  if (!tasks.ok()) return false;
  for (const int32_t task : *tasks) {
    const absl::StatusOr<TaskStat> stat = ReadTaskStat(absl::StrCat(path, "/", task, "/stat"));
    if (stat.ok() && (stat->flags & kPfUserWorker) != 0) continue;
    const absl::StatusOr<std::string> text =
        ReadProcFile(absl::StrCat(path, "/", task, "/syscall"));
    if (!text.ok() || MayBeInKvmRun(*text)) return false;
  }
  return true;
}

}  // namespace rehome::bench
