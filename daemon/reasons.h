// SPDX-License-Identifier: Apache-2.0
//
// Every reason that code of this room attaches to an error or writes into a record, once. They are
// API: clients and alarms compare them, docs/reasons.md says for each what to do. Never rename one;
// append, in the group of the unit that raises it.
#ifndef REHOME_DAEMON_REASONS_H_
#define REHOME_DAEMON_REASONS_H_

#include <string_view>

namespace rehome::reason {

// --- machine, driver: why a migration ended as it did ---

// Somebody asked for it (Cancel). The guest runs on the source.
inline constexpr std::string_view kCancelled = "CANCELLED";
// The deadline of the whole migration passed before the guest was handed over.
inline constexpr std::string_view kDeadlineExceeded = "DEADLINE_EXCEEDED";
// The daemon is being stopped: nothing new is admitted, and what had not handed over is rolled
// back.
inline constexpr std::string_view kShuttingDown = "SHUTTING_DOWN";
// A link or an effect gave up waiting because the interrupt was raised. Never the reason of a
// migration: the machine puts the cause of the interrupt in its place.
inline constexpr std::string_view kInterrupted = "INTERRUPTED";
// A setback for which nobody gave a cause.
inline constexpr std::string_view kUnspecified = "UNSPECIFIED";
// An effect answered with an event that its step does not know: a bug of ours.
inline constexpr std::string_view kIllegalTransition = "ILLEGAL_TRANSITION";
// An effect claims the fence without its proof in the record: a bug of ours.
inline constexpr std::string_view kSuccessWithoutProof = "SUCCESS_WITHOUT_PROOF";
// More transitions than the table has steps: a bug of ours.
inline constexpr std::string_view kTooManyTransitions = "TOO_MANY_TRANSITIONS";
// The daemon ended while the migration was under way, and this version does not take it up again.
inline constexpr std::string_view kDaemonRestarted = "DAEMON_RESTARTED";
// The host booted while the migration was under way; the guest went down with the host.
inline constexpr std::string_view kHostRebooted = "HOST_REBOOTED";

// --- interrupt ---

// RLIMIT_NOFILE of the daemon is reached (kvmglue/fd.h uses the same word).
inline constexpr std::string_view kFdLimit = "FD_LIMIT";

// --- journal ---

// No room on the file system of the state directory.
inline constexpr std::string_view kJournalFull = "JOURNAL_FULL";
// The database refused for another reason (I/O error, permissions); the message has it.
inline constexpr std::string_view kJournalFailed = "JOURNAL_FAILED";
// The file is not a journal, or is damaged.
inline constexpr std::string_view kJournalCorrupt = "JOURNAL_CORRUPT";
// Written by a newer rehomed; it was left untouched.
inline constexpr std::string_view kJournalFromNewerVersion = "JOURNAL_FROM_NEWER_VERSION";
// Another rehomed uses this state directory.
inline constexpr std::string_view kStateDirectoryInUse = "STATE_DIRECTORY_IN_USE";
// The state directory cannot be created or written.
inline constexpr std::string_view kStateDirectoryUnusable = "STATE_DIRECTORY_UNUSABLE";

// --- registry ---

inline constexpr std::string_view kMigrationNotFound = "MIGRATION_NOT_FOUND";
// A request_id came a second time with other parameters.
inline constexpr std::string_view kRequestIdReused = "REQUEST_ID_REUSED";
// The VM has an unfinished migration; the message names it.
inline constexpr std::string_view kMigrationInProgress = "MIGRATION_IN_PROGRESS";
// kMaxPending migrations wait already.
inline constexpr std::string_view kQueueFull = "QUEUE_FULL";
// Too late to cancel: the guest runs on the target.
inline constexpr std::string_view kPastCommit = "PAST_COMMIT";
inline constexpr std::string_view kAlreadyFinished = "ALREADY_FINISHED";
// A request_id that is too long.
inline constexpr std::string_view kBadRequestId = "BAD_REQUEST_ID";
// A deadline or time-out that is negative or beyond its maximum.
inline constexpr std::string_view kBadDeadline = "BAD_DEADLINE";
// A thread could not be started (RLIMIT_NPROC, pids.max of the cgroup).
inline constexpr std::string_view kThreadLimit = "THREAD_LIMIT";
// Registry::Options that make no sense.
inline constexpr std::string_view kBadConfiguration = "BAD_CONFIGURATION";

// --- vm_directory ---

inline constexpr std::string_view kVmNotFound = "VM_NOT_FOUND";
// Another living process has registered this VM id.
inline constexpr std::string_view kVmIdTaken = "VM_ID_TAKEN";
// kMaxRegisteredVms are registered.
inline constexpr std::string_view kTooManyVms = "TOO_MANY_VMS";
// Not [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?.
inline constexpr std::string_view kBadVmId = "BAD_VM_ID";

// --- clock ---

// /proc/sys/kernel/random/boot_id cannot be read: /proc is not mounted.
inline constexpr std::string_view kBootIdUnreadable = "BOOT_ID_UNREADABLE";

}  // namespace rehome::reason

#endif  // REHOME_DAEMON_REASONS_H_
