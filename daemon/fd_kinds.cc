// SPDX-License-Identifier: Apache-2.0
#include "daemon/fd_kinds.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
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

// That we could not look says nothing about the descriptor, nor about who sent it.
absl::Status CannotLook(const char* call, int error) {
  return MakeStatus(absl::StatusCode::kInternal, reason::kSyscallFailed,
                    absl::StrCat(call, " of an agent's descriptor: ", strerror(error)));
}

// What /proc shows as the target of the descriptor's link; "" if it is not open.
absl::StatusOr<std::string> NameOf(BorrowedFd fd) {
  char name[kMaxNameBytes];
  const std::string path = absl::StrCat("/proc/self/fd/", fd.raw());
  const ssize_t length = readlink(path.c_str(), name, sizeof(name));
  if (length >= 0) return std::string(name, static_cast<size_t>(length));
  if (errno == ENOENT) return "";
  return CannotLook("readlink", errno);
}

absl::StatusOr<long> FileSystemOf(BorrowedFd fd) {
  struct statfs file_system = {};
  if (fstatfs(fd.raw(), &file_system) != 0) return CannotLook("fstatfs", errno);
  return file_system.f_type;
}

// "anon_inode:kvm-vm" (virt/kvm/kvm_main.c, kvm_dev_ioctl_create_vm()). The prefix is written by
// the anon_inode file system alone: the path of any other file begins with '/' or with the name of
// another pseudo file system. VM and vCPU files share one inode, so the number says nothing.
absl::StatusOr<bool> IsKvmVm(BorrowedFd fd) {
  const absl::StatusOr<std::string> name = NameOf(fd);
  if (!name.ok()) return name.status();
  return *name == "anon_inode:kvm-vm";
}

// Up to 6.18 "anon_inode:[kvm-gmem]"; from 6.19 on a file system of its own, whose name
// "/[kvm-gmem] (deleted)" anybody could give to a file, but not its f_type (GUEST_MEMFD_MAGIC).
absl::StatusOr<bool> IsGuestMemfd(BorrowedFd fd) {
  const absl::StatusOr<std::string> name = NameOf(fd);
  if (!name.ok()) return name.status();
  if (*name == "anon_inode:[kvm-gmem]") return true;
  if (!name->starts_with("/[kvm-gmem]")) return false;
  const absl::StatusOr<long> file_system = FileSystemOf(fd);
  if (!file_system.ok()) return file_system.status();
  return *file_system == kGuestMemfdMagic;
}

// "/memfd:NAME (deleted)" on tmpfs or hugetlbfs. The name could be imitated; file seals, which
// exist on these two file systems only (mm/memfd.c, memfd_file_seals_ptr()), and the missing link
// could not, and a deleted file of a tmpfs is as good as a memfd.
absl::StatusOr<bool> IsMemfd(BorrowedFd fd) {
  const absl::StatusOr<std::string> name = NameOf(fd);
  if (!name.ok()) return name.status();
  if (!name->starts_with("/memfd:")) return false;
  if (fcntl(fd.raw(), F_GET_SEALS) < 0) {
    // EBADF: opened with O_PATH.
    if (errno == EINVAL || errno == EBADF) return false;
    return CannotLook("F_GET_SEALS", errno);
  }
  const absl::StatusOr<long> file_system = FileSystemOf(fd);
  if (!file_system.ok()) return file_system.status();
  struct stat file = {};
  if (fstat(fd.raw(), &file) != 0) return CannotLook("fstat", errno);
  return (*file_system == TMPFS_MAGIC || *file_system == HUGETLBFS_MAGIC) && file.st_nlink == 0;
}

absl::Status WrongKind(BorrowedFd fd, const char* wanted) {
  std::string name = NameOf(fd).value_or("");
  for (char& c : name) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation,
                    absl::StrCat("a descriptor that should be ", wanted, " is ",
                                 name.empty() ? "not open" : name));
}

// OK if it is.
absl::Status MustBe(const absl::StatusOr<bool>& is, BorrowedFd fd, const char* wanted) {
  if (!is.ok()) return is.status();
  return *is ? absl::OkStatus() : WrongKind(fd, wanted);
}

// Which of `wanted` the memfd has.
absl::StatusOr<int> SealsOf(BorrowedFd fd, int wanted) {
  const int seals = fcntl(fd.raw(), F_GET_SEALS);
  if (seals < 0) return CannotLook("F_GET_SEALS", errno);
  return seals & wanted;
}

class KvmFdKinds final : public FdKinds {
 public:
  absl::Status CheckVm(BorrowedFd fd) const override { return MustBe(IsKvmVm(fd), fd, "a KVM VM"); }
  absl::Status CheckMemory(BorrowedFd fd) const override {
    const absl::StatusOr<bool> guest_memfd = IsGuestMemfd(fd);
    const bool is_memory = guest_memfd.ok() && *guest_memfd;
    return MustBe(is_memory ? guest_memfd : IsMemfd(fd), fd, "a guest_memfd or a memfd");
  }
};

class SimFdKinds final : public FdKinds {
 public:
  absl::Status CheckVm(BorrowedFd fd) const override {
    return MustBe(IsMemfd(fd), fd, "a simulated VM");
  }
  absl::Status CheckMemory(BorrowedFd fd) const override {
    return MustBe(IsMemfd(fd), fd, "a simulated guest_memfd or a memfd");
  }
};

}  // namespace

absl::Status FdKinds::CheckConfig(BorrowedFd fd) const {
  absl::Status memfd = MustBe(IsMemfd(fd), fd, "a configuration memfd");
  if (!memfd.ok()) return memfd;
  const absl::StatusOr<int> seals = SealsOf(fd, kFrozen);
  if (!seals.ok()) return seals.status();
  if (*seals != kFrozen) {
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
  absl::Status memfd = MustBe(IsMemfd(fd), fd, "a handover block");
  if (!memfd.ok()) return memfd;
  const absl::StatusOr<int> seals = SealsOf(fd, kFixedSize);
  if (!seals.ok()) return seals.status();
  if (*seals != kFixedSize) {
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
