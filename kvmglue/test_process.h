// SPDX-License-Identifier: Apache-2.0
//
// For tests of a kernel, real or simulated: other processes that hold its descriptors, memory for
// guests, and a process that has no descriptor left.
#ifndef REHOME_KVMGLUE_TEST_PROCESS_H_
#define REHOME_KVMGLUE_TEST_PROCESS_H_

#include <sys/resource.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "kvmglue/fd.h"

namespace rehome::testing {

// A page-aligned anonymous mapping: userspace_addr of slots.
class HostPages {
 public:
  explicit HostPages(uint64_t size);
  ~HostPages();
  HostPages(const HostPages&) = delete;
  HostPages& operator=(const HostPages&) = delete;
  uint64_t address() const { return reinterpret_cast<uint64_t>(base_); }
  uint64_t& word(uint64_t offset) { return *reinterpret_cast<uint64_t*>(base_ + offset); }
  void Unmap();

 private:
  std::byte* base_;
  uint64_t size_;
};

// A forked process. Its function returns what the process exits with; it gets one end of a socket.
// Killed and reaped with the object.
class Child {
 public:
  explicit Child(const std::function<int(BorrowedFd socket)>& run);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  BorrowedFd socket() const { return socket_.borrow(); }
  void Kill();
  // Exit status, or 128 + signal.
  int Wait();

 private:
  pid_t pid_ = -1;
  UniqueFd socket_;
};

// One datagram with fds and a byte; the receiver waits up to kTestTimeoutMs.
inline constexpr int kTestTimeoutMs = 20'000;
bool Send(BorrowedFd socket, const std::vector<BorrowedFd>& fds = {});
bool Receive(BorrowedFd socket, std::vector<UniqueFd>* fds = nullptr);

// Runs both at the same time, in two threads that wait for each other; returns when both have.
void AtOnce(const std::function<void()>& first, const std::function<void()>& second);

// As long as it lives, no fd can be opened (EMFILE): RLIMIT_NOFILE is the lowest free number.
class NoMoreFds {
 public:
  NoMoreFds();
  ~NoMoreFds();
  NoMoreFds(const NoMoreFds&) = delete;
  NoMoreFds& operator=(const NoMoreFds&) = delete;

 private:
  rlimit before_;
};

}  // namespace rehome::testing

#endif  // REHOME_KVMGLUE_TEST_PROCESS_H_
