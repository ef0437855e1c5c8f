/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(sizeof(struct rehome_trace_header) == 64, "wire");
_Static_assert(offsetof(struct rehome_trace_header, magic) == 0, "wire");
_Static_assert(offsetof(struct rehome_trace_header, version) == 8, "wire");
_Static_assert(offsetof(struct rehome_trace_header, capacity) == 12, "wire");
_Static_assert(offsetof(struct rehome_trace_header, threshold_ns) == 16, "wire");
_Static_assert(offsetof(struct rehome_trace_header, claimed) == 20, "wire");
_Static_assert(offsetof(struct rehome_trace_header, reserved) == 24, "wire");
_Static_assert(sizeof(struct rehome_trace_call) == 32, "wire");
_Static_assert(offsetof(struct rehome_trace_call, begin_ns) == 0, "wire");
_Static_assert(offsetof(struct rehome_trace_call, end_ns) == 8, "wire");
_Static_assert(offsetof(struct rehome_trace_call, operation) == 16, "wire");
_Static_assert(offsetof(struct rehome_trace_call, vcpu) == 20, "wire");
_Static_assert(offsetof(struct rehome_trace_call, thread) == 24, "wire");
_Static_assert(offsetof(struct rehome_trace_call, complete) == 28, "wire");
_Static_assert(sizeof(struct rehome_trace_header) +
                       REHOME_TRACE_CALLS * sizeof(struct rehome_trace_call) ==
                   REHOME_TRACE_SIZE,
               "the pages are full");

enum { kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };
enum { kOff, kWanted, kRecording };

struct rehome_trace {
  atomic_int mode;
  /* REHOME_TRACE_SIZE bytes at one address for the life of the object: an area is mapped over them,
   * and memory of our own when there is none. So a thread that is slow to write, while the area
   * goes, still writes to memory that is there. */
  uint8_t *memory;
  atomic_uint runs[REHOME_TRACE_VCPUS];
};

/* The words that several processes write: plain integers in the wire's structures. */
static _Atomic uint32_t *shared(uint32_t *word) { return (_Atomic uint32_t *)word; }

static struct rehome_trace_header *header_of(const struct rehome_trace *trace) {
  return (struct rehome_trace_header *)(void *)trace->memory;
}

static struct rehome_trace_call *call_of(const struct rehome_trace *trace, uint32_t index) {
  return (struct rehome_trace_call *)(void *)(trace->memory + sizeof(struct rehome_trace_header)) +
         index;
}

static int map(void *at, int flags, int fd) {
  void *mapped = mmap(at, REHOME_TRACE_SIZE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
  return mapped == MAP_FAILED ? -errno : 0;
}

struct rehome_trace *rehome_trace_new(void) {
  struct rehome_trace *trace = calloc(1, sizeof(*trace));
  if (trace == NULL) return NULL;
  void *memory =
      mmap(NULL, REHOME_TRACE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    int error = errno;
    free(trace);
    errno = error;
    return NULL;
  }
  trace->memory = memory;
  return trace;
}

void rehome_trace_free(struct rehome_trace *trace) {
  if (trace == NULL) return;
  munmap(trace->memory, REHOME_TRACE_SIZE);
  free(trace);
}

int rehome_trace_wanted(const struct rehome_trace *trace) {
  return atomic_load_explicit(&trace->mode, memory_order_relaxed) != kOff;
}

static uint32_t this_thread(void) {
  static _Thread_local uint32_t id = 0;
  if (id == 0) id = (uint32_t)syscall(SYS_gettid);
  return id;
}

/* Of the KVM_RUNs only the few that bound the blackout. */
static int is_one_run_too_many(struct rehome_trace *trace, uint32_t operation, uint32_t vcpu) {
  if (operation != REHOME_TRACE_KVM_RUN) return 0;
  return vcpu >= REHOME_TRACE_VCPUS ||
         atomic_fetch_add_explicit(&trace->runs[vcpu], 1, memory_order_relaxed) >=
             REHOME_TRACE_RUNS;
}

void rehome_trace_record(struct rehome_trace *trace, uint32_t operation, uint32_t vcpu,
                         uint64_t begin_ns, uint64_t end_ns) {
  if (atomic_load_explicit(&trace->mode, memory_order_acquire) != kRecording) return;
  if (end_ns - begin_ns < REHOME_TRACE_THRESHOLD_NS) return;
  if (is_one_run_too_many(trace, operation, vcpu)) return;
  _Atomic uint32_t *claimed = shared(&header_of(trace)->claimed);
  /* Not beyond twice the capacity, so that it never wraps around and gives a place out again. */
  if (atomic_load_explicit(claimed, memory_order_relaxed) >= 2 * REHOME_TRACE_CALLS) return;
  uint32_t place = atomic_fetch_add_explicit(claimed, 1, memory_order_relaxed);
  if (place >= REHOME_TRACE_CALLS) return;
  struct rehome_trace_call *call = call_of(trace, place);
  call->begin_ns = begin_ns;
  call->end_ns = end_ns;
  call->operation = operation;
  call->vcpu = vcpu;
  call->thread = this_thread();
  atomic_store_explicit(shared(&call->complete), 1, memory_order_release);
}

static int is_area(int fd) {
  struct stat status;
  struct rehome_trace_header header;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || (seals & F_SEAL_WRITE) != 0) return 0;
  if (fstat(fd, &status) != 0 || status.st_size != REHOME_TRACE_SIZE) return 0;
  if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header)) return 0;
  return header.magic == REHOME_TRACE_MAGIC && header.version == REHOME_TRACE_VERSION &&
         header.capacity == REHOME_TRACE_CALLS;
}

int rehome_trace_open(struct rehome_trace *trace, int fd) {
  rehome_trace_close(trace);
  if (!is_area(fd)) return -EINVAL;
  /* Populated, so that no call in the blackout takes a page fault here. */
  int result = map(trace->memory, MAP_SHARED | MAP_POPULATE, fd);
  if (result != 0) return result;
  for (uint32_t i = 0; i < REHOME_TRACE_VCPUS; i++) atomic_store(&trace->runs[i], 0);
  atomic_store_explicit(&trace->mode, kWanted, memory_order_release);
  return 0;
}

void rehome_trace_start(struct rehome_trace *trace) {
  int wanted = kWanted;
  atomic_compare_exchange_strong(&trace->mode, &wanted, kRecording);
}

void rehome_trace_close(struct rehome_trace *trace) {
  if (atomic_exchange(&trace->mode, kOff) == kOff) return;
  /* If this fails the area stays, which is 16 KiB of a file that nobody else may have any more. */
  (void)map(trace->memory, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* ---- the daemon ---- */

static int fill_area(int fd) {
  struct rehome_trace_header header = {
      .magic = REHOME_TRACE_MAGIC,
      .version = REHOME_TRACE_VERSION,
      .capacity = REHOME_TRACE_CALLS,
      .threshold_ns = REHOME_TRACE_THRESHOLD_NS,
  };
  if (ftruncate(fd, REHOME_TRACE_SIZE) != 0) return -errno;
  ssize_t written = pwrite(fd, &header, sizeof(header), 0);
  if (written != (ssize_t)sizeof(header)) return written < 0 ? -errno : -EIO;
  return fcntl(fd, F_ADD_SEALS, kSeals) == 0 ? 0 : -errno;
}

int rehome_trace_create_area(void) {
  int fd = memfd_create("rehome-trace", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  int result = fill_area(fd);
  if (result == 0) return fd;
  close(fd);
  return result;
}
