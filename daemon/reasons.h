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
// The daemon ended before the guest was asked to stop; the next one rolled the migration back.
inline constexpr std::string_view kDaemonRestarted = "DAEMON_RESTARTED";
// The host booted while the migration was under way; the guest went down with the host.
inline constexpr std::string_view kHostRebooted = "HOST_REBOOTED";

// --- registry: an earlier daemon's migrations ---

// How they stand is being found out; nothing new is admitted meanwhile.
inline constexpr std::string_view kRecovering = "RECOVERING";
// The VM has an INDETERMINATE migration, which must be resolved first.
inline constexpr std::string_view kMigrationUnresolved = "MIGRATION_UNRESOLVED";
// Resolve() of a migration that is not INDETERMINATE.
inline constexpr std::string_view kNotIndeterminate = "NOT_INDETERMINATE";

// --- interrupt ---

// RLIMIT_NOFILE of the daemon is reached (kvmglue/fd.h uses the same word).
inline constexpr std::string_view kFdLimit = "FD_LIMIT";

// --- journal ---

// No room on the file system of the state directory.
inline constexpr std::string_view kJournalFull = "JOURNAL_FULL";
// The database refused for another reason (I/O error, permissions); the message has it.
inline constexpr std::string_view kJournalFailed = "JOURNAL_FAILED";
// The journal is damaged: a record, or the file while the daemon runs. A start repairs it.
inline constexpr std::string_view kJournalCorrupt = "JOURNAL_CORRUPT";
// A database, but no journal of rehomed; it was left untouched.
inline constexpr std::string_view kJournalForeign = "JOURNAL_FOREIGN";
// Written by a newer rehomed; it was left untouched.
inline constexpr std::string_view kJournalFromNewerVersion = "JOURNAL_FROM_NEWER_VERSION";
// Another rehomed uses this state directory.
inline constexpr std::string_view kStateDirectoryInUse = "STATE_DIRECTORY_IN_USE";
// The state directory cannot be created or written.
inline constexpr std::string_view kStateDirectoryUnusable = "STATE_DIRECTORY_UNUSABLE";

// --- service_manager, escrow_store, escrow_description ---

// The service manager does not read its socket, or the socket cannot be reached.
inline constexpr std::string_view kServiceManagerFailed = "SERVICE_MANAGER_FAILED";
// As many descriptors are kept for migrations as the store has room for.
inline constexpr std::string_view kEscrowStoreFull = "ESCROW_STORE_FULL";
// What the service manager gave back of a migration is not what was given to it.
inline constexpr std::string_view kEscrowDamaged = "ESCROW_DAMAGED";
// A name that no item of the store can have: a bug of ours.
inline constexpr std::string_view kBadEscrowItem = "BAD_ESCROW_ITEM";

// --- registry ---

inline constexpr std::string_view kMigrationNotFound = "MIGRATION_NOT_FOUND";
// The migration has no trace: none was recorded, or it was lost with a daemon.
inline constexpr std::string_view kTraceNotFound = "TRACE_NOT_FOUND";
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

// --- metrics ---

// The address of the metrics cannot be listened on: in use, or no address of this host.
inline constexpr std::string_view kMetricsListenFailed = "METRICS_LISTEN_FAILED";

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

// --- config ---

// The configuration file has errors; the message has one line for each, with its place.
inline constexpr std::string_view kConfigInvalid = "CONFIG_INVALID";
inline constexpr std::string_view kConfigNotFound = "CONFIG_NOT_FOUND";
inline constexpr std::string_view kConfigUnreadable = "CONFIG_UNREADABLE";

// --- process_identity, proc_files, fence ---

// The process has exited and has been reaped; its number may be somebody else's now.
inline constexpr std::string_view kProcessGone = "PROCESS_GONE";
// A file of /proc cannot be read or is in a format that this version does not know.
inline constexpr std::string_view kProcUnreadable = "PROC_UNREADABLE";
// Not an open descriptor, or not of the kind that the call needs: a bug of ours.
inline constexpr std::string_view kBadFd = "BAD_FD";
// A call that fails on no healthy system (kvmglue/errno_status.cc uses the same word).
inline constexpr std::string_view kSyscallFailed = "SYSCALL_FAILED";
// A process was not proven stopped, or did not exit, in time.
inline constexpr std::string_view kFenceTimeout = "FENCE_TIMEOUT";
// A process could not be inspected (no CAP_SYS_PTRACE, or /proc hides it): whether it holds the
// guest's memory is unknown.
inline constexpr std::string_view kHoldersUnreadable = "HOLDERS_UNREADABLE";
// The target does not map the guest's memory where and as it says.
inline constexpr std::string_view kMappingMismatch = "MAPPING_MISMATCH";

// --- state_formats, preflight ---

// The source writes no state format that the target reads; the message names both.
inline constexpr std::string_view kStateFormatUnsupported = "STATE_FORMAT_UNSUPPORTED";

// --- launcher ---

inline constexpr std::string_view kProfileNotFound = "PROFILE_NOT_FOUND";
// The profile has enabled = false.
inline constexpr std::string_view kProfileDisabled = "PROFILE_DISABLED";
// The VMM could not be started; the message has the step and errno in words.
inline constexpr std::string_view kLaunchFailed = "LAUNCH_FAILED";

// --- effects: how a handover or a rescue went ---

// The guest ended by itself on the source: switched off, or crashed, as it could have without us.
inline constexpr std::string_view kGuestEnded = "GUEST_ENDED";
// The target refused because the guest has a device that it does not have.
inline constexpr std::string_view kDeviceUnknown = "DEVICE_UNKNOWN";
// The source gave up before it paused: a device did not finish its request in time.
inline constexpr std::string_view kDeviceBusy = "DEVICE_BUSY";
// The source VMM is dead and the guest was not handed over.
inline constexpr std::string_view kGuestLost = "GUEST_LOST";
// The verdict did not settle within both deadlines.
inline constexpr std::string_view kHandoverStuck = "HANDOVER_STUCK";
// A VMM scribbled over the verdict word.
inline constexpr std::string_view kVerdictCorrupt = "VERDICT_CORRUPT";
// The target says that it runs the guest, and the source's own kernel says that nobody moved it.
inline constexpr std::string_view kVmNotMoved = "VM_NOT_MOVED";
// The target said that it cannot take the guest over.
inline constexpr std::string_view kTakeOverFailed = "TAKE_OVER_FAILED";
inline constexpr std::string_view kTargetDied = "TARGET_DIED";
// The target would not die.
inline constexpr std::string_view kTargetNotDiscarded = "TARGET_NOT_DISCARDED";
// No target could be built in the place of a dead one; the escrow is kept.
inline constexpr std::string_view kRescueFailed = "RESCUE_FAILED";
// A process that is dead, to show to a target, could not be made.
inline constexpr std::string_view kNoStandIn = "NO_STAND_IN";

// --- vmm_link, agent_server: what an agent did ---

// The VMM closed its connection or exited.
inline constexpr std::string_view kAgentGone = "AGENT_GONE";
// The VMM did not answer in time.
inline constexpr std::string_view kAgentTimeout = "AGENT_TIMEOUT";
// The VMM does not read its connection, or owes too many answers.
inline constexpr std::string_view kAgentStalled = "AGENT_STALLED";
// The VMM broke the agent protocol; its connection was closed.
inline constexpr std::string_view kAgentProtocolViolation = "AGENT_PROTOCOL_VIOLATION";
// The VMM's agent and this daemon have no version of the agent protocol in common.
inline constexpr std::string_view kAgentVersionUnsupported = "AGENT_VERSION_UNSUPPORTED";
// The VMM refused a request; the message has its words.
inline constexpr std::string_view kAgentRefusedMalformed = "AGENT_REFUSED_MALFORMED";
inline constexpr std::string_view kAgentRefusedUnsupported = "AGENT_REFUSED_UNSUPPORTED";
inline constexpr std::string_view kAgentRefusedBusy = "AGENT_REFUSED_BUSY";
inline constexpr std::string_view kAgentRefusedStateFormat = "AGENT_REFUSED_STATE_FORMAT";
inline constexpr std::string_view kAgentRefusedResources = "AGENT_REFUSED_RESOURCES";
inline constexpr std::string_view kAgentRefusedKernel = "AGENT_REFUSED_KERNEL";
inline constexpr std::string_view kAgentRefusedWrongMigration = "AGENT_REFUSED_WRONG_MIGRATION";
inline constexpr std::string_view kAgentRefusedIdTaken = "AGENT_REFUSED_ID_TAKEN";
inline constexpr std::string_view kAgentRefusedDenied = "AGENT_REFUSED_DENIED";
inline constexpr std::string_view kAgentRefusedInternal = "AGENT_REFUSED_INTERNAL";
// A migration id that does not fit into the protocol: a bug of ours.
inline constexpr std::string_view kBadMigrationId = "BAD_MIGRATION_ID";
// A VM description with more file descriptors than one message carries: a bug of ours.
inline constexpr std::string_view kTooManyFds = "TOO_MANY_FDS";
// kMaxAgentConnections are open.
inline constexpr std::string_view kTooManyConnections = "TOO_MANY_CONNECTIONS";
// Another process listens on the socket.
inline constexpr std::string_view kSocketInUse = "SOCKET_IN_USE";
// The socket cannot be made; the message has errno in words.
inline constexpr std::string_view kSocketFailed = "SOCKET_FAILED";

}  // namespace rehome::reason

#endif  // REHOME_DAEMON_REASONS_H_
