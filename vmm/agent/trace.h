/* SPDX-License-Identifier: Apache-2.0
 *
 * The trace of a hop: which ioctls the VMM made around the blackout, and how long each took. It is
 * for people; nothing depends on it, and a VMM that has none loses nothing else.
 *
 * The daemon makes a trace area, a sealed memfd of fixed size, for each side of each migration, and
 * offers it (message TRACE, feature TRACE). The VMM's threads write into it; the daemon reads it
 * when the hop is over, also if the VMM has been killed meanwhile, and believes none of it.
 *
 * A VMM calls rehome_trace_record() after each ioctl; the library knows when there is something to
 * record. C11, libc only.
 */
#ifndef REHOME_VMM_AGENT_TRACE_H_
#define REHOME_VMM_AGENT_TRACE_H_

#include <stdint.h>

#include "vmm/agent/trace_operations.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_TRACE_MAGIC 0x435254454d4f4852ull /* "RHOMETRC" */
#define REHOME_TRACE_VERSION 1u
/* Bytes of the area: four pages. */
#define REHOME_TRACE_SIZE 16384u
/* Calls that an area has room for: the pages are full then. A hop of 2 vCPUs makes some 30 calls
 * above the threshold; those of 40 vCPUs still fit. */
#define REHOME_TRACE_CALLS 510u
/* ns. Shorter calls are not recorded: they explain nothing in a blackout of hundreds of us, and
 * there are many of them. */
#define REHOME_TRACE_THRESHOLD_NS 10000u
/* KVM_RUN of each vCPU: the one that the pause ends, the one that completes an instruction, and the
 * first of the target. The guest's ordinary exits would fill the area; they are not counted as
 * dropped. */
#define REHOME_TRACE_RUNS 4u
/* vCPUs that have such a count; KVM_RUN of others is not recorded. */
#define REHOME_TRACE_VCPUS 64u
/* Instead of a vCPU: the call was made on the VM or on /dev/kvm. */
#define REHOME_TRACE_NO_VCPU UINT32_MAX

/* The area is this, then REHOME_TRACE_CALLS times rehome_trace_call. Little-endian. 64 bytes. */
struct rehome_trace_header {
  uint64_t magic;
  uint32_t version;
  uint32_t capacity;     /* REHOME_TRACE_CALLS */
  uint32_t threshold_ns; /* REHOME_TRACE_THRESHOLD_NS */
  uint32_t claimed;      /* places given out; above the capacity: calls that found none. Atomic */
  uint64_t reserved[5];
};

/* 32 bytes. CLOCK_MONOTONIC. */
struct rehome_trace_call {
  uint64_t begin_ns;
  uint64_t end_ns;
  uint32_t operation; /* REHOME_TRACE_OPERATIONS */
  uint32_t vcpu;      /* index, or REHOME_TRACE_NO_VCPU */
  uint32_t thread;    /* gettid() */
  uint32_t complete;  /* 1, written last: the rest is there. Atomic */
};

/* ---- the VMM ---- */

struct rehome_trace;

/* One for the life of the process, given to rehome_agent_start(). NULL and errno (ENOMEM). */
struct rehome_trace *rehome_trace_new(void);
/* No thread may be in a function of this header, and no agent may have it. */
void rehome_trace_free(struct rehome_trace *trace);

/* 1 while calls may have to be recorded: the time of a call need not be taken otherwise. Any
 * thread; one load. */
int rehome_trace_wanted(const struct rehome_trace *trace);
/* Notes a call that ended just now. Does nothing if none is wanted, the call was shorter than the
 * threshold, or the area is full. Any thread; takes no lock, allocates nothing, makes no system
 * call but gettid(), once per thread. */
void rehome_trace_record(struct rehome_trace *trace, uint32_t operation, uint32_t vcpu,
                         uint64_t begin_ns, uint64_t end_ns);

/* ---- the agent ---- (one thread, the library's) */

/* Takes an area in, of which `fd` stays the caller's. From now on calls are wanted, and recorded
 * after rehome_trace_start(). -EINVAL: no trace area (size, seals, header); -ENOMEM and others from
 * mmap(). After an error none is wanted. */
int rehome_trace_open(struct rehome_trace *trace, int fd);
void rehome_trace_start(struct rehome_trace *trace);
/* Lets go of the area. Threads that are about to write to it write nowhere. */
void rehome_trace_close(struct rehome_trace *trace);

/* ---- the daemon ---- */

/* A new area, sealed and close-on-exec, or a negative errno. */
int rehome_trace_create_area(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REHOME_VMM_AGENT_TRACE_H_ */
