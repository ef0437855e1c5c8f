/* SPDX-License-Identifier: Apache-2.0
 *
 * The wire between rehomed and the agent in a VMM, in the manner of vhost-user: fixed header,
 * fixed-layout little-endian payloads, file descriptors as ancillary data (SCM_RIGHTS).
 * docs/agent-protocol.md is the specification; this header is its C form.
 *
 * Transport: an AF_UNIX SOCK_SEQPACKET socket. One datagram is one message, so a message is either
 * whole or (MSG_TRUNC, MSG_CTRUNC) refused; there is no partial read to wait for.
 *
 * Both ends distrust each other: every count, length, enum and reserved field is checked before
 * use, and a violation closes the connection.
 */
#ifndef REHOME_VMM_AGENT_PROTOCOL_H_
#define REHOME_VMM_AGENT_PROTOCOL_H_

#include <stddef.h>
#include <stdint.h>

#include "vmm/agent/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_PROTOCOL_MAGIC 0x4d4f4852u /* "RHOM" */
#define REHOME_PROTOCOL_VERSION 1u

/* Bounds. A full description is 128 slots x 72 bytes + 64 fds x 40 bytes + fixed part: 12 KiB. */
#define REHOME_MAX_MESSAGE 16384u /* bytes, header included */
#define REHOME_MAX_FDS 64u        /* per message; the kernel's SCM_MAX_FD is 253 */
#define REHOME_MAX_DESCRIBED_FDS (REHOME_MAX_FDS - 1u) /* of a VM: PREPARE, HAND_IN add BLOCK */
#define REHOME_MAX_VCPUS 64u
#define REHOME_MAX_MEMORIES 16u /* fds with role MEMORY */
#define REHOME_ID_SIZE 64u      /* bytes of a NUL-terminated identifier, NUL included */
#define REHOME_FD_NAME_SIZE 32u
#define REHOME_TEXT_SIZE 256u
#define REHOME_MAX_CONFIG (1u << 20) /* bytes of the CONFIG file: CPUID, device topology */
#define REHOME_MAX_STATE (64u << 20) /* bytes of the state area of a handover block */

/* Feature bits, negotiated in HELLO; the connection uses the intersection. */
#define REHOME_FEATURE_LINK (1u << 0)      /* can KVM_LINK_GUEST_MEMFD */
#define REHOME_FEATURE_MOVE (1u << 1)      /* can KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM */
#define REHOME_FEATURE_MAP (1u << 2)       /* can map the source's memory files */
#define REHOME_FEATURE_NAMED_FDS (1u << 3) /* takes over named device fds */
#define REHOME_FEATURE_RECOVER (1u << 4)   /* answers HAND_IN */
#define REHOME_FEATURE_TRACE (1u << 5)     /* fills a trace area (trace.h) */
#define REHOME_FEATURE_FORMATS (1u << 6)   /* writes the state format that it is told */
#define REHOME_FEATURE_EXACT (1u << 7)     /* says "dead" for EIO only, "nothing" when sure */
#define REHOME_FEATURES_ALL 0xffu

enum rehome_message {
  /* agent -> daemon */
  REHOME_MSG_HELLO = 1,    /* rehome_hello -> reply rehome_hello_reply */
  REHOME_MSG_REGISTER = 2, /* rehome_register -> reply, no payload */
  REHOME_MSG_EVENT = 3,    /* rehome_event, no reply */
  /* daemon -> agent; each has exactly one reply with the same type and seq */
  REHOME_MSG_DESCRIBE = 16,   /* rehome_describe -> reply rehome_description + fds */
  REHOME_MSG_PREPARE = 17,    /* rehome_prepare + rehome_description + fds -> reply
                                 rehome_description + fds {VM, MEMORY...} */
  REHOME_MSG_ARM_TARGET = 18, /* rehome_arm + fd {PEER_PIDFD} -> reply, no payload */
  REHOME_MSG_ARM_SOURCE = 19, /* rehome_arm, or with feature FORMATS rehome_arm_source, + fds
                                 {BLOCK, PEER_PIDFD} -> reply, no payload */
  REHOME_MSG_START = 20,      /* rehome_migration_ref -> reply, no payload, sent before the pause */
  REHOME_MSG_CANCEL = 21,     /* rehome_migration_ref -> reply; source: forget the migration (the
                                 guest keeps running); target: exit */
  REHOME_MSG_RELEASE = 22,    /* rehome_migration_ref -> reply; source only, after RUNNING: exit */
  REHOME_MSG_PROBE = 23,      /* rehome_migration_ref -> reply rehome_probe; refused with KERNEL if
                                 the VM's ioctl failed in another way than EIO */
  REHOME_MSG_HAND_IN = 24,    /* rehome_migration_ref -> reply rehome_description + fds, BLOCK among
                                 them: what a daemon that lost it needs to settle a migration. With
                                 feature RECOVER */
  REHOME_MSG_TRACE = 25,      /* rehome_migration_ref + fd {TRACE area}, no reply: before ARM_*, for
                                 the trace of the hop. With feature TRACE */
};

#define REHOME_FLAG_REPLY (1u << 0)

/* 32 bytes. */
struct rehome_header {
  uint32_t magic;
  uint16_t version; /* of the protocol that the sender speaks on this connection */
  uint16_t type;    /* enum rehome_message */
  uint32_t flags;   /* REHOME_FLAG_*; others 0 */
  uint32_t status; /* replies: 0, or enum rehome_refusal; then the payload is rehome_refusal_text */
  uint64_t seq;    /* chosen by the requester, unique on the connection, echoed in the reply */
  uint32_t payload_size; /* bytes that follow; must equal the datagram's rest */
  uint32_t fd_count;     /* descriptors that travel with the message */
};

/* Why a request was refused. Stable; docs/reasons.md has the words for each. */
enum rehome_refusal {
  REHOME_REFUSED_NONE = 0,
  REHOME_REFUSED_MALFORMED = 1,       /* the request breaks the protocol */
  REHOME_REFUSED_UNSUPPORTED = 2,     /* understood, and this VMM cannot do it */
  REHOME_REFUSED_BUSY = 3,            /* another migration of this VM is under way in the VMM */
  REHOME_REFUSED_STATE_FORMAT = 4,    /* the VMM cannot read that state format */
  REHOME_REFUSED_RESOURCES = 5,       /* no memory, fds, ... */
  REHOME_REFUSED_KERNEL = 6,          /* the kernel refused; the text names call and errno */
  REHOME_REFUSED_WRONG_MIGRATION = 7, /* the migration id is not the one under way */
  REHOME_REFUSED_ID_TAKEN = 8,        /* REGISTER: the vm_id is registered by a living process */
  REHOME_REFUSED_DENIED = 9,          /* REGISTER/HELLO: this peer may not */
  REHOME_REFUSED_INTERNAL = 10,
};

struct rehome_refusal_text {
  char text[REHOME_TEXT_SIZE]; /* NUL-terminated, for people */
};

enum rehome_role {
  REHOME_ROLE_OWNER = 1,  /* has a running (or paused) guest and will REGISTER it */
  REHOME_ROLE_TARGET = 2, /* was started to take one over; waits for PREPARE */
};

struct rehome_hello {
  uint32_t version_min, version_max; /* of the protocol */
  uint32_t features;
  uint32_t role;               /* enum rehome_role */
  uint32_t state_format_write; /* the format this VMM writes its state in */
  uint32_t state_format_read_min, state_format_read_max;
  uint32_t reserved;
  char vmm_name[REHOME_ID_SIZE];
  char vmm_version[REHOME_ID_SIZE];
};

struct rehome_hello_reply {
  uint32_t version;
  uint32_t features;
  uint64_t reserved;
};

/* What a VMM says about its VM when it registers. No fds: an idle daemon pins nothing. */
struct rehome_register {
  char vm_id[REHOME_ID_SIZE]; /* [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? */
  uint32_t vm_type;           /* KVM_X86_*_VM */
  uint32_t vcpu_count;
  uint64_t memory_bytes;
  char migration_id[REHOME_ID_SIZE]; /* "" or the migration by which it got the guest */
};

/* How the text of RESUMED begins if the source gave up before it paused, because a device did not
 * finish in time. With the next the only text that is read by a program. */
#define REHOME_TEXT_DEVICE_BUSY "DEVICE_BUSY: "
/* How a target refuses PREPARE (UNSUPPORTED) if the guest has a device that it does not have. */
#define REHOME_TEXT_DEVICE_UNKNOWN "DEVICE_UNKNOWN: "

enum rehome_event_kind {
  REHOME_EVENT_RESUMED = 1,          /* source: the guest runs here again after a pause */
  REHOME_EVENT_HANDED_OVER = 2,      /* source: saw RUNNING; will not run the guest again */
  REHOME_EVENT_FIRST_RUN = 3,        /* target: a KVM_RUN has been entered and came back sane */
  REHOME_EVENT_FIRST_RUN_FAILED = 4, /* target: the first KVM_RUN failed; text says how */
  REHOME_EVENT_GUEST_STOPPED = 5,    /* owner: the guest shut down; the VMM will exit */
  REHOME_EVENT_TAKE_OVER_FAILED = 6, /* target: restore or MOVE failed; text says how */
  REHOME_EVENT_VM_DEAD = 7, /* source: paused, and cannot be resumed although the verdict is
                               not RUNNING; text says why; the daemon decides */
};

struct rehome_event {
  uint32_t kind; /* enum rehome_event_kind */
  uint32_t reserved;
  char migration_id[REHOME_ID_SIZE]; /* "" for GUEST_STOPPED */
  char text[REHOME_TEXT_SIZE];
};

struct rehome_migration_ref {
  char migration_id[REHOME_ID_SIZE];
};

struct rehome_describe {
  char migration_id[REHOME_ID_SIZE];
  uint32_t hold; /* 1: from now to RESUMED/CANCEL refuse changes of memory slots, devices and
                    console connections, because their fds have been handed out; 0: dry run */
  uint32_t reserved;
};

/* Roles of fds. Order in the message = order of the rehome_fd_entry array. */
enum rehome_fd_role {
  REHOME_FD_VM = 1,
  REHOME_FD_MEMORY = 2, /* index = memory_index in the slots */
  REHOME_FD_CONFIG = 3, /* sealed memfd, opaque to the daemon, at most REHOME_MAX_CONFIG */
  REHOME_FD_NAMED = 4,  /* device fd; name is the VMM's own, unique in the message */
  REHOME_FD_BLOCK = 5,
  REHOME_FD_PEER_PIDFD = 6,
};

struct rehome_fd_entry {
  uint32_t role;
  uint32_t index;
  char name[REHOME_FD_NAME_SIZE];
};

enum rehome_strategy {
  REHOME_STRATEGY_LINK_MOVE = 1, /* KVM_LINK_GUEST_MEMFD, then MOVE: SW_PROTECTED, TDX */
  REHOME_STRATEGY_MAP_MOVE = 2,  /* map the same memfd, then MOVE: SEV, SEV-ES */
  REHOME_STRATEGY_LINK = 3,      /* default VM type, kernel with LINK */
  REHOME_STRATEGY_MAP = 4,       /* default VM type: map the same file */
};

enum rehome_fence_policy {
  REHOME_FENCE_KERNEL = 1,        /* MOVE marks the source dead; nothing to wait for */
  REHOME_FENCE_BEFORE_RESUME = 2, /* the target waits for block->fence_proven before RUNNING */
  REHOME_FENCE_AFTER_RESUME = 3,  /* the source is trusted to stop until it is killed */
};

/* A VM: the answer to DESCRIBE and PREPARE, and (the source's) the question of PREPARE. Followed by
 * slot_count rehome_memslot and fd_count rehome_fd_entry; payload_size must be exactly that. */
struct rehome_description {
  char vm_id[REHOME_ID_SIZE];
  uint32_t vm_type;
  uint32_t vcpu_count;
  uint32_t slot_count;
  uint32_t fd_count;       /* = header.fd_count */
  uint64_t state_capacity; /* bytes the VMM may need for its state; 0 in a target's answer */
  uint64_t layout_digest;
  uint32_t state_format; /* what the state will be written in; if there is a choice the newest */
  uint32_t state_format_oldest; /* reply to DESCRIBE with feature FORMATS: the oldest that this VMM
                                   can write of this guest; 0: state_format and no other. Else 0 */
};

struct rehome_prepare {
  char migration_id[REHOME_ID_SIZE];
  uint32_t strategy;
  uint32_t fence_policy;
};

struct rehome_arm {
  char migration_id[REHOME_ID_SIZE];
  uint64_t layout_digest; /* the source re-checks it when paused */
};

/* ARM_SOURCE with feature FORMATS. */
struct rehome_arm_source {
  struct rehome_arm arm;
  uint32_t state_format; /* to write: one that the reply to DESCRIBE offered */
  uint32_t reserved;
};

struct rehome_probe {
  uint32_t vm_alive; /* 1: a harmless VM ioctl in this process succeeded; 0: it gave EIO. That 0
                        is no other failure is promised with feature EXACT only */
  uint32_t guest_running; /* 1: the guest runs here; in a target: its first KVM_RUN came back */
  uint64_t reserved;
};

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REHOME_VMM_AGENT_PROTOCOL_H_ */
