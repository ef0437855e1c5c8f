// SPDX-License-Identifier: Apache-2.0
//
// From a pidfd to a process that cannot be mistaken for a later one with the same number.
#ifndef REHOME_DAEMON_PROCESS_IDENTITY_H_
#define REHOME_DAEMON_PROCESS_IDENTITY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "daemon/migration.h"
#include "kvmglue/fd.h"

namespace rehome {

// What the fdinfo of a pidfd says (kernel/pid.c, pidfd_show_fdinfo()): the process's number, -1
// once it has been reaped, 0 if our PID namespace does not contain it. nullopt if it is none of a
// pidfd.
std::optional<int32_t> ParsePidfdInfo(std::string_view fdinfo);

// The process's number in our PID namespace, from the pidfd's fdinfo. NOT_FOUND / PROCESS_GONE once
// it has been reaped: from then on the number may be somebody else's. A zombie still has its
// number.
absl::StatusOr<int32_t> PidOf(BorrowedFd pidfd);

// Identity of the process behind a pidfd (fdinfo "Pid:", /proc/PID/stat field 22). NOT_FOUND /
// PROCESS_GONE once it has been reaped.
absl::StatusOr<ProcessIdentity> IdentifyProcess(BorrowedFd pidfd);

// Ourselves. What cannot be read (descriptors exhausted) is 0; the pid never is.
ProcessIdentity IdentifySelf();

// Whether the process that has the number now is the one that was meant: same start time (in clock
// ticks; all numbers up to pid_max would have to be used up within one for a mistake). False if
// there is none. An error, as ReadTaskStat() but for NOT_FOUND, says nothing about the process.
absl::StatusOr<bool> IsSameProcess(const ProcessIdentity& process);

// A pidfd of the process of that identity; invalid if there is none any more (a zombie is one), or
// if it is all 0. An error says nothing about the process: as OpenPidfd(), but for NOT_FOUND.
absl::StatusOr<UniqueFd> FindProcess(const ProcessIdentity& process);

// A pidfd of a process that is dead, for a peer that is to be told so: that of another one cannot
// be had any more. UNAVAILABLE / NO_STAND_IN, RESOURCE_EXHAUSTED / FD_LIMIT.
absl::StatusOr<UniqueFd> OpenDeadProcess();

// Whether the process has exited, a zombie or reaped, within `wait`. False also if it cannot be
// asked, and of what is no pidfd.
bool AwaitExitOf(BorrowedFd pidfd, std::chrono::nanoseconds wait);

// Reaps a child that has exited. Nothing happens if it has not, or if it is not ours to reap.
void ReapIfExited(BorrowedFd pidfd);

// "/proc/PID".
std::string ProcPath(int32_t pid);

}  // namespace rehome

#endif  // REHOME_DAEMON_PROCESS_IDENTITY_H_
