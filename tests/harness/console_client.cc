// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/console_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace rehome::harness {
namespace {

using Clock = std::chrono::steady_clock;

int RemainingMs(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

}  // namespace

absl::StatusOr<ConsoleClient> ConsoleClient::Attach(const std::string& socket_path,
                                                    std::chrono::milliseconds timeout) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError("console path too long");
  }
  memcpy(address.sun_path, socket_path.c_str(), socket_path.size());
  const Clock::time_point deadline = Clock::now() + timeout;
  // The VMM creates the socket some time after its start; connect(2) is the only event to wait for.
  while (true) {
    ConsoleClient client;
    client.socket_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(client.socket_.borrow().raw(), reinterpret_cast<sockaddr*>(&address),
                sizeof(address)) == 0) {
      return client;
    }
    const int error = errno;
    if (RemainingMs(deadline) == 0) {
      return absl::DeadlineExceededError(
          absl::StrCat("console ", socket_path, ": ", strerror(error)));
    }
    poll(nullptr, 0, 2);
  }
}

absl::Status ConsoleClient::Type(const std::string& text) {
  const ssize_t sent = send(socket_.borrow().raw(), text.data(), text.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(text.size())) return absl::OkStatus();
  return absl::UnavailableError("the console did not take the text");
}

absl::StatusOr<std::string> ConsoleClient::ReadLine(std::chrono::milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  while (true) {
    const size_t end = unread_.find('\n');
    if (end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return line;
    }
    pollfd poll_fd{.fd = socket_.borrow().raw(), .events = POLLIN, .revents = 0};
    if (poll(&poll_fd, 1, RemainingMs(deadline)) != 1) {
      return absl::DeadlineExceededError("no line on the console in time");
    }
    char buffer[4096];
    const ssize_t got = recv(poll_fd.fd, buffer, sizeof(buffer), 0);
    if (got <= 0) return absl::UnavailableError("the console hung up");
    unread_.append(buffer, static_cast<size_t>(got));
  }
}

absl::StatusOr<std::string> ConsoleClient::ReadUntil(const std::string& text,
                                                     std::chrono::milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  while (true) {
    absl::StatusOr<std::string> line = ReadLine(std::chrono::milliseconds(RemainingMs(deadline)));
    if (!line.ok() || line->find(text) != std::string::npos) return line;
  }
}

}  // namespace rehome::harness
