// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/procmap.h"

#include <sys/ioctl.h>
#include <sys/sysmacros.h>

namespace rehome {
namespace {

// struct procmap_query.
struct ProcmapQuery {
  uint64_t size = sizeof(ProcmapQuery);
  uint64_t query_flags = 0;
  uint64_t query_address = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t flags = 0;
  uint64_t page_size = 0;
  uint64_t offset = 0;
  uint64_t inode = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  // Name and build id are not asked for: they are what makes the text expensive.
  uint32_t name_size = 0;
  uint32_t build_id_size = 0;
  uint64_t name_address = 0;
  uint64_t build_id_address = 0;
};
static_assert(sizeof(ProcmapQuery) == 104);

constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t kCoveringOrNext = 0x10;  // PROCMAP_QUERY_COVERING_OR_NEXT_VMA
constexpr uint64_t kFileBacked = 0x20;      // PROCMAP_QUERY_FILE_BACKED_VMA

}  // namespace

SysResult NextFileMapping(BorrowedFd maps, uint64_t address, FileMapping* mapping) {
  ProcmapQuery query{.query_flags = kCoveringOrNext | kFileBacked, .query_address = address};
  const SysResult result = CaptureErrno(ioctl(maps.raw(), kProcmapQuery, &query));
  if (!result.ok()) return result;
  *mapping = {
      .end = query.end,
      .inode = {.device = makedev(query.device_major, query.device_minor), .inode = query.inode}};
  return result;
}

}  // namespace rehome
