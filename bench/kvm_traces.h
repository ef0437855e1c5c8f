// SPDX-License-Identifier: Apache-2.0
//
// What /proc shows of a process that has to do with KVM.
#ifndef REHOME_BENCH_KVM_TRACES_H_
#define REHOME_BENCH_KVM_TRACES_H_

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace rehome::bench {

struct KvmMapping {
  uint64_t begin = 0, end = 0;
};

struct KvmTraces {
  std::vector<int> descriptors;             // VM, vCPU, guest_memfd, /dev/kvm
  std::vector<KvmMapping> vcpu_mappings;    // struct kvm_run
  std::vector<KvmMapping> memory_mappings;  // guest_memfd
};

// Of a process that need not stand still: what it opens meanwhile may be missed. Errors of reading
// /proc.
absl::StatusOr<KvmTraces> FindKvmTraces(pid_t pid);

// Whether the target of a link in /proc/PID/fd is one of KVM's files.
bool IsKvmFile(std::string_view link);
// Whether a task whose /proc/PID/task/TID/syscall reads so may be inside KVM_RUN: it runs, is
// stopped outside of a system call, or is in an ioctl.
bool MayBeInKvmRun(std::string_view syscall);
// Whether no task of the process is; false if one cannot be looked at.
bool NoTaskInKvmRun(pid_t pid);

}  // namespace rehome::bench

#endif  // REHOME_BENCH_KVM_TRACES_H_
