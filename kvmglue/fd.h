// SPDX-License-Identifier: Apache-2.0
//
// File descriptors as types. No other header of the project passes a bare `int` fd (the C agent
// API excepted), so that ownership is visible in every signature.
#ifndef REHOME_KVMGLUE_FD_H_
#define REHOME_KVMGLUE_FD_H_

#include <utility>

#include "absl/status/statusor.h"

namespace rehome {

// A descriptor that somebody else owns and keeps open for as long as the callee uses it.
class BorrowedFd {
 public:
  constexpr BorrowedFd() = default;
  explicit constexpr BorrowedFd(int raw) : raw_(raw) {}

  constexpr int raw() const { return raw_; }
  constexpr bool valid() const { return raw_ >= 0; }

 private:
  int raw_ = -1;
};

// The only owner of an open descriptor; closes it when destroyed. Move-only. Not thread-safe.
class UniqueFd {
 public:
  constexpr UniqueFd() = default;
  // Takes ownership of `raw`; a negative value makes an empty owner.
  explicit constexpr UniqueFd(int raw) : raw_(raw) {}
  UniqueFd(UniqueFd&& other) noexcept : raw_(std::exchange(other.raw_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { Reset(); }

  BorrowedFd borrow() const { return BorrowedFd(raw_); }
  bool valid() const { return raw_ >= 0; }
  explicit operator bool() const { return valid(); }

  // Gives ownership away; the caller closes the result.
  [[nodiscard]] int Release() { return std::exchange(raw_, -1); }
  // Closes now. Errors of close(2) are ignored: the descriptor is gone in every case on Linux.
  void Reset();

 private:
  int raw_ = -1;
};

// A second descriptor for the same open file description, close-on-exec.
// Fails with RESOURCE_EXHAUSTED / FD_LIMIT at RLIMIT_NOFILE, INVALID_ARGUMENT / BAD_FD if `fd` is
// not open.
absl::StatusOr<UniqueFd> Duplicate(BorrowedFd fd);

// Whether both are descriptors of one open file description: duplicates of each other (kcmp(2) with
// KCMP_FILE). False as well where kcmp is denied.
bool IsSameOpenFile(BorrowedFd a, BorrowedFd b);

// FD_CLOEXEC, for a descriptor of a call that cannot set it itself. INVALID_ARGUMENT / BAD_FD.
absl::Status SetCloseOnExec(BorrowedFd fd);

// What identifies an inode while somebody holds it open; numbers are re-used after the last close
// (fs/inode.c get_next_ino() is a wrapping 32-bit counter), so never keep one without an fd.
struct InodeId {
  unsigned long device = 0;
  unsigned long inode = 0;
  friend bool operator==(const InodeId&, const InodeId&) = default;
  friend auto operator<=>(const InodeId&, const InodeId&) = default;
};

struct FileIdentity {
  InodeId id;
  unsigned long long size_bytes = 0;
};

// fstat(2). INVALID_ARGUMENT / BAD_FD if `fd` is not open.
absl::StatusOr<FileIdentity> Identify(BorrowedFd fd);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_FD_H_
