// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/file_tag.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

namespace rehome::sim {
namespace {

// The file position, from the top: 11 bits magic, 3 kind, 9 index, 3 flags, 37 VM id; the sign bit
// stays clear. tmpfs takes every position up to MAX_LFS_FILESIZE (2^63 - 1).
constexpr int kIdBits = 37;
constexpr int kFlagBits = 3;
constexpr int kIndexBits = 9;
constexpr int kKindBits = 3;
constexpr int kFlagShift = kIdBits;
constexpr int kIndexShift = kFlagShift + kFlagBits;
constexpr int kKindShift = kIndexShift + kIndexBits;
constexpr int kMagicShift = kKindShift + kKindBits;
constexpr uint64_t kMagic = 0x5b3;

constexpr uint64_t kMappableBit = 1;
constexpr uint64_t kInitSharedBit = 2;
constexpr uint64_t kGatedBit = 4;

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

uint64_t KindNumber(FileKind kind) {
  switch (kind) {
    case FileKind::kSystem:
      return 1;
    case FileKind::kVm:
      return 2;
    case FileKind::kVcpu:
      return 3;
    case FileKind::kGuestMemfd:
      return 4;
    case FileKind::kNotOpen:
    case FileKind::kForeign:
      break;
  }
  return 0;
}

FileKind KindFromNumber(uint64_t number) {
  for (const FileKind kind :
       {FileKind::kSystem, FileKind::kVm, FileKind::kVcpu, FileKind::kGuestMemfd}) {
    if (KindNumber(kind) == number) return kind;
  }
  return FileKind::kForeign;
}

uint64_t Field(uint64_t position, int shift, int bits) {
  return (position >> shift) & ((uint64_t{1} << bits) - 1);
}

FileTag Decode(uint64_t position) {
  const uint64_t flags = Field(position, kFlagShift, kFlagBits);
  return {.kind = KindFromNumber(Field(position, kKindShift, kKindBits)),
          .index = static_cast<uint32_t>(Field(position, kIndexShift, kIndexBits)),
          .vm_id = Field(position, 0, kIdBits),
          .mappable = (flags & kMappableBit) != 0,
          .init_shared = (flags & kInitSharedBit) != 0,
          .gated = (flags & kGatedBit) != 0};
}

uint64_t Encode(const FileTag& tag) {
  const uint64_t flags = (tag.mappable ? kMappableBit : 0) |
                         (tag.init_shared ? kInitSharedBit : 0) | (tag.gated ? kGatedBit : 0);
  return kMagic << kMagicShift | KindNumber(tag.kind) << kKindShift |
         uint64_t{tag.index} << kIndexShift | flags << kFlagShift | tag.vm_id;
}

struct flock Range(short type, uint64_t first, uint64_t count) {
  struct flock range = {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(first);
  range.l_len = static_cast<off_t>(count);
  return range;
}

}  // namespace

FileTag ReadTag(BorrowedFd fd) {
  const SysResult position = CaptureErrno(lseek(fd.raw(), 0, SEEK_CUR));
  if (!position.ok()) {
    return {.kind = position.error == EBADF ? FileKind::kNotOpen : FileKind::kForeign};
  }
  const uint64_t value = static_cast<uint64_t>(position.value);
  if (value >> kMagicShift != kMagic || fcntl(fd.raw(), F_GET_SEALS) != kSeals) return {};
  return Decode(value);
}

SysResult WriteTag(BorrowedFd fd, const FileTag& tag) {
  if (tag.vm_id > kMaxVmId || tag.index > kMaxFileIndex) return {-1, ERANGE};
  return CaptureErrno(lseek(fd.raw(), static_cast<off_t>(Encode(tag)), SEEK_SET));
}

SysResult CreateSealedMemfd(const char* name, uint64_t size) {
  const SysResult created = CaptureErrno(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!created.ok()) return created;
  UniqueFd fd(static_cast<int>(created.value));
  SysResult step = CaptureErrno(ftruncate(fd.borrow().raw(), static_cast<off_t>(size)));
  if (step.ok()) step = CaptureErrno(fcntl(fd.borrow().raw(), F_ADD_SEALS, kSeals));
  if (!step.ok()) return step;
  return {fd.Release(), 0};
}

SysResult ReopenInode(BorrowedFd fd, bool close_on_exec) {
  char path[sizeof("/proc/self/fd/-2147483648")];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd.raw());
  return CaptureErrno(open(path, O_RDWR | (close_on_exec ? O_CLOEXEC : 0)));
}

SysResult SetMark(BorrowedFd fd, uint64_t mark) {
  struct flock range = Range(F_RDLCK, mark, 1);
  return CaptureErrno(fcntl(fd.raw(), F_OFD_SETLK, &range));
}

bool IsMarked(BorrowedFd fd, uint64_t first, uint64_t count) {
  struct flock range = Range(F_WRLCK, first, count);
  return fcntl(fd.raw(), F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

uint64_t GuestMemfdMark(uint64_t vm_id, uint32_t index) { return vm_id << kIndexBits | index; }

}  // namespace rehome::sim
