// SPDX-License-Identifier: Apache-2.0
//
// PROCMAP_QUERY (Linux 6.11, include/uapi/linux/fs.h): mappings of a process without text. The
// headers of Debian 12 are older than the call.
#ifndef REHOME_KVMGLUE_PROCMAP_H_
#define REHOME_KVMGLUE_PROCMAP_H_

#include <cstdint>

#include "kvmglue/fd.h"
#include "kvmglue/sys_result.h"

namespace rehome {

struct FileMapping {
  uint64_t end = 0;  // first address behind it
  InodeId inode;     // as /proc/PID/maps prints it
};

// The first mapping of a file that contains `address` or comes after it, in the process whose
// /proc/PID/maps (or /proc/PID/task/TID/maps) `maps` is. Errors: ENOENT, there is none; ESRCH, the
// task has no address space (a kernel thread, or it is exiting); ENOTTY, the kernel is older.
SysResult NextFileMapping(BorrowedFd maps, uint64_t address, FileMapping* mapping);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_PROCMAP_H_
