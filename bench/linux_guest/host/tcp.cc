// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/tcp.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace rehome::linux_guest {
namespace {

using Clock = std::chrono::steady_clock;

// Between two tries.
constexpr int kRetryMs = 100;
// Of one try, so that a packet that nobody answers does not cost minutes.
constexpr std::chrono::milliseconds kTryTimeout{3000};

}  // namespace

void SetSocketTimeout(BorrowedFd socket, std::chrono::milliseconds timeout) {
  const timeval value = {.tv_sec = timeout.count() / 1000,
                         .tv_usec = timeout.count() % 1000 * 1000};
  setsockopt(socket.raw(), SOL_SOCKET, SO_RCVTIMEO, &value, sizeof(value));
  setsockopt(socket.raw(), SOL_SOCKET, SO_SNDTIMEO, &value, sizeof(value));
}

absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, uint16_t port,
                                    std::chrono::milliseconds timeout) {
  sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (inet_pton(AF_INET, address.c_str(), &place.sin_addr) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("no IPv4 address: ", address));
  }
  const Clock::time_point deadline = Clock::now() + timeout;
  for (;;) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return absl::ErrnoToStatus(errno, "socket");
    SetSocketTimeout(fd.borrow(), kTryTimeout);
    if (connect(fd.borrow().raw(), reinterpret_cast<const sockaddr*>(&place), sizeof(place)) == 0) {
      const int on = 1;
      setsockopt(fd.borrow().raw(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      SetSocketTimeout(fd.borrow(), std::chrono::milliseconds(0));
      return fd;
    }
    const int error = errno;
    if (Clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("connect to ", address, ":", port, ": ", strerror(error)));
    }
    poll(nullptr, 0, kRetryMs);
  }
}

}  // namespace rehome::linux_guest
