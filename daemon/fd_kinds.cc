// SPDX-License-Identifier: Apache-2.0
#include "daemon/fd_kinds.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome {
namespace {

// include/uapi/linux/magic.h of 6.19 ("GMEM"); newer than Debian 12's headers.
constexpr long kGuestMemfdMagic = 0x474d454d;
// Longer than every name that is looked for; a longer one may be cut.
constexpr size_t kMaxNameBytes = 512;
constexpr int kFrozen = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
constexpr int kFixedSize = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// What /proc shows as the target of the descriptor's link; "" if it is not open.
std::string NameOf(BorrowedFd fd) {
  char name[kMaxNameBytes];
  const std::string path = absl::StrCat("/proc/self/fd/", fd.raw());
  const ssize_t length = readlink(path.c_str(), name, sizeof(name));
  return length > 0 ? std::string(name, static_cast<size_t>(length)) : "";
}

long FileSystemOf(BorrowedFd fd) {
  struct statfs file_system = {};
  return fstatfs(fd.raw(), &file_system) == 0 ? file_system.f_type : 0;
}

absl::Status WrongKind(BorrowedFd fd, const char* wanted) {
  std::string name = NameOf(fd);
  for (char& c : name) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                    absl::StrCat("a descriptor that should be ", wanted, " is ",
                                 name.empty() ? "not open" : name));
}

class KvmFdKinds final : public FdKinds {
 public:
  absl::Status CheckVm(BorrowedFd fd) const override {
    return IsKvmVm(fd) ? absl::OkStatus() : WrongKind(fd, "a KVM VM");
  }
  absl::Status CheckMemory(BorrowedFd fd) const override {
    if (IsGuestMemfd(fd) || IsMemfd(fd)) return absl::OkStatus();
    return WrongKind(fd, "a guest_memfd or a memfd");
  }
};

class SimFdKinds final : public FdKinds {
 public:
  absl::Status CheckVm(BorrowedFd fd) const override {
    return IsMemfd(fd) ? absl::OkStatus() : WrongKind(fd, "a simulated VM");
  }
  absl::Status CheckMemory(BorrowedFd fd) const override {
    return IsMemfd(fd) ? absl::OkStatus() : WrongKind(fd, "a simulated guest_memfd or a memfd");
  }
};

}  // namespace

bool IsKvmVm(BorrowedFd fd) { return NameOf(fd) == "anon_inode:kvm-vm"; }

bool IsGuestMemfd(BorrowedFd fd) {
  const std::string name = NameOf(fd);
  if (name == "anon_inode:[kvm-gmem]") return true;
  return name.starts_with("/[kvm-gmem]") && FileSystemOf(fd) == kGuestMemfdMagic;
}

bool IsMemfd(BorrowedFd fd) {
  if (!NameOf(fd).starts_with("/memfd:") || fcntl(fd.raw(), F_GET_SEALS) < 0) return false;
  const long file_system = FileSystemOf(fd);
  struct stat file = {};
  return (file_system == TMPFS_MAGIC || file_system == HUGETLBFS_MAGIC) &&
         fstat(fd.raw(), &file) == 0 && file.st_nlink == 0;
}

absl::Status FdKinds::CheckConfig(BorrowedFd fd) const {
  if (!IsMemfd(fd)) return WrongKind(fd, "a configuration memfd");
  if ((fcntl(fd.raw(), F_GET_SEALS) & kFrozen) != kFrozen) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                      "the CONFIG memfd is not sealed against shrinking, growing and writing");
  }
  absl::StatusOr<FileIdentity> file = Identify(fd);
  if (!file.ok()) return file.status();
  if (file->size_bytes == 0 || file->size_bytes > REHOME_MAX_CONFIG) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                      absl::StrCat("the CONFIG memfd has ", file->size_bytes,
                                   " bytes, must be 1 to ", REHOME_MAX_CONFIG));
  }
  return absl::OkStatus();
}

absl::Status FdKinds::CheckBlock(BorrowedFd fd, std::string_view migration_id) const {
  if (!IsMemfd(fd)) return WrongKind(fd, "a handover block");
  if ((fcntl(fd.raw(), F_GET_SEALS) & kFixedSize) != kFixedSize) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                      "the BLOCK memfd is not sealed against resizing");
  }
  rehome_block_header header;
  if (pread(fd.raw(), &header, sizeof(header), 0) != sizeof(header) ||
      header.magic != REHOME_BLOCK_MAGIC) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                      "the BLOCK memfd is no handover block");
  }
  const std::string_view id(header.migration_id,
                            strnlen(header.migration_id, sizeof(header.migration_id)));
  if (id == migration_id) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                    "the BLOCK memfd is another migration's");
}

std::unique_ptr<FdKinds> NewKvmFdKinds() { return std::make_unique<KvmFdKinds>(); }
std::unique_ptr<FdKinds> NewSimFdKinds() { return std::make_unique<SimFdKinds>(); }

}  // namespace rehome
