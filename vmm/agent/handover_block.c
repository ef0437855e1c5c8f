/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/handover_block.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/agent/futex.h"
#include "vmm/agent/protocol.h"

/* The file is shared between programs of different age and language: pin every place in it. */
_Static_assert(offsetof(struct rehome_block_header, magic) == 0, "wire");
_Static_assert(offsetof(struct rehome_block_header, version) == 8, "wire");
_Static_assert(offsetof(struct rehome_block_header, header_size) == 12, "wire");
_Static_assert(offsetof(struct rehome_block_header, total_size) == 16, "wire");
_Static_assert(offsetof(struct rehome_block_header, state_capacity) == 24, "wire");
_Static_assert(offsetof(struct rehome_block_header, claim_timeout_ns) == 32, "wire");
_Static_assert(offsetof(struct rehome_block_header, resolve_timeout_ns) == 40, "wire");
_Static_assert(offsetof(struct rehome_block_header, fence_policy) == 48, "wire");
_Static_assert(offsetof(struct rehome_block_header, strategy) == 52, "wire");
_Static_assert(offsetof(struct rehome_block_header, migration_id) == 56, "wire");
_Static_assert(offsetof(struct rehome_block_header, reserved) == 120, "wire");
_Static_assert(offsetof(struct rehome_block_header, verdict_word) == 192, "wire");
_Static_assert(offsetof(struct rehome_block_header, source_ready_word) == 256, "wire");
_Static_assert(offsetof(struct rehome_block_header, fence_word) == 320, "wire");
_Static_assert(offsetof(struct rehome_block_header, state_size) == 384, "wire");
_Static_assert(offsetof(struct rehome_block_header, phase_ns) == 392, "wire");
_Static_assert(sizeof(struct rehome_block_header) == 512, "wire");
_Static_assert(_Alignof(struct rehome_block_header) == 64, "one cache line per word");
_Static_assert(sizeof(struct rehome_block_header) <= REHOME_BLOCK_HEADER_SIZE, "fits its page");
_Static_assert(sizeof(((struct rehome_block *)0)->migration_id) == REHOME_ID_SIZE, "same ids");

enum { kPageSize = 4096, kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static uint64_t total_size(uint64_t state_capacity) {
  return REHOME_BLOCK_HEADER_SIZE + (state_capacity + kPageSize - 1) / kPageSize * kPageSize;
}

static int moves_context(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

/* What create refuses to write and map refuses to believe. */
static int terms_are_sane(const char *migration_id, uint64_t state_capacity, uint64_t claim_ns,
                          uint64_t resolve_ns, uint32_t fence_policy, uint32_t strategy) {
  size_t id_length = strnlen(migration_id, REHOME_ID_SIZE);
  if (id_length == 0 || id_length == REHOME_ID_SIZE) return 0;
  if (state_capacity > REHOME_MAX_STATE) return 0;
  if (claim_ns == 0 || claim_ns > REHOME_BLOCK_MAX_TIMEOUT_NS) return 0;
  if (resolve_ns == 0 || resolve_ns > REHOME_BLOCK_MAX_TIMEOUT_NS) return 0;
  if (strategy < REHOME_STRATEGY_LINK_MOVE || strategy > REHOME_STRATEGY_MAP) return 0;
  if (fence_policy < REHOME_FENCE_KERNEL || fence_policy > REHOME_FENCE_AFTER_RESUME) return 0;
  return fence_policy != REHOME_FENCE_KERNEL || moves_context(strategy);
}

static int write_header(int fd, const struct rehome_block_params *params) {
  struct rehome_block_header header = {
      .magic = REHOME_BLOCK_MAGIC,
      .version = REHOME_BLOCK_VERSION,
      .header_size = REHOME_BLOCK_HEADER_SIZE,
      .total_size = total_size(params->state_capacity),
      .state_capacity = params->state_capacity,
      .claim_timeout_ns = params->claim_timeout_ns,
      .resolve_timeout_ns = params->resolve_timeout_ns,
      .fence_policy = params->fence_policy,
      .strategy = params->strategy,
      .verdict_word = REHOME_VERDICT_OPEN,
  };
  memcpy(header.migration_id, params->migration_id, strlen(params->migration_id));
  int truncated;
  do {
    truncated = ftruncate(fd, (off_t)header.total_size);
  } while (truncated != 0 && errno == EINTR);
  if (truncated != 0) return -errno;
  ssize_t written;
  do {
    written = pwrite(fd, &header, sizeof(header), 0);
  } while (written < 0 && errno == EINTR);
  if (written < 0) return -errno;
  if (written != (ssize_t)sizeof(header)) return -EIO;
  return fcntl(fd, F_ADD_SEALS, kSeals) == 0 ? 0 : -errno;
}

int rehome_block_create(const struct rehome_block_params *params) {
  if (!terms_are_sane(params->migration_id, params->state_capacity, params->claim_timeout_ns,
                      params->resolve_timeout_ns, params->fence_policy, params->strategy)) {
    return -EINVAL;
  }
  int fd = memfd_create("rehome-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  int result = write_header(fd, params);
  if (result != 0) {
    close(fd);
    return result;
  }
  return fd;
}

static int all_zero(const uint64_t *words, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (words[i] != 0) return 0;
  }
  return 1;
}

/* `header` is a private copy, so that nothing changes between check and use. */
static int header_is_sane(const struct rehome_block_header *header, uint64_t file_size) {
  if (header->magic != REHOME_BLOCK_MAGIC || header->version != REHOME_BLOCK_VERSION) return 0;
  if (header->header_size != REHOME_BLOCK_HEADER_SIZE) return 0;
  if (!all_zero(header->reserved, sizeof(header->reserved) / sizeof(header->reserved[0]))) return 0;
  if (!terms_are_sane(header->migration_id, header->state_capacity, header->claim_timeout_ns,
                      header->resolve_timeout_ns, header->fence_policy, header->strategy)) {
    return 0;
  }
  return header->total_size == file_size && total_size(header->state_capacity) == file_size;
}

int rehome_block_map(int fd, struct rehome_block *block) {
  memset(block, 0, sizeof(*block));
  int seals = fcntl(fd, F_GET_SEALS);
  struct stat status;
  if (seals < 0 || (seals & kSeals) != kSeals || fstat(fd, &status) != 0) return -EINVAL;
  uint64_t size = (uint64_t)status.st_size;
  if (size < REHOME_BLOCK_HEADER_SIZE || size > total_size(REHOME_MAX_STATE)) return -EINVAL;

  void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (start == MAP_FAILED) return errno == ENOMEM ? -ENOMEM : -EINVAL;
  struct rehome_block_header header;
  memcpy(&header, start, sizeof(header));
  if (!header_is_sane(&header, size)) {
    munmap(start, size);
    return -EINVAL;
  }
  block->shared = start;
  block->state = (uint8_t *)start + REHOME_BLOCK_HEADER_SIZE;
  block->state_capacity = header.state_capacity;
  block->mapped_size = size;
  block->claim_timeout_ns = header.claim_timeout_ns;
  block->resolve_timeout_ns = header.resolve_timeout_ns;
  block->fence_policy = header.fence_policy;
  block->strategy = header.strategy;
  memcpy(block->migration_id, header.migration_id, sizeof(block->migration_id));
  return 0;
}

void rehome_block_unmap(struct rehome_block *block) {
  if (block->shared != NULL) munmap(block->shared, block->mapped_size);
  memset(block, 0, sizeof(*block));
}

uint64_t rehome_monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
