// SPDX-License-Identifier: Apache-2.0
#include "daemon/service_manager.h"

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr char kSocketVariable[] = "NOTIFY_SOCKET";

absl::Status Failed(const std::string& what) {
  return MakeStatus(absl::StatusCode::kUnavailable, reason::kServiceManagerFailed,
                    absl::StrCat("service manager: ", what));
}

// Bytes for sun_path: "/path", or "@name" for an abstract socket. "" for what is neither.
std::string TakeAddress() {
  const char* value = getenv(kSocketVariable);
  std::string address = value == nullptr ? "" : value;
  unsetenv(kSocketVariable);
  if (address.size() < 2 || address.size() >= sizeof(sockaddr_un::sun_path)) return "";
  if (address[0] == '@') address[0] = '\0';
  return address[0] == '\0' || address[0] == '/' ? address : "";
}

// How many came, where LISTEN_FDS claims that it was more: exec leaves no gap between them.
int CountOpen() {
  const char* claimed = getenv("LISTEN_FDS");
  const long limit = claimed == nullptr ? 0 : strtol(claimed, nullptr, 10);
  int count = 0;
  while (count < limit && fcntl(SD_LISTEN_FDS_START + count, F_GETFD) >= 0) ++count;
  return count;
}

struct ListenFds {
  std::vector<NamedFd> fds;
  bool whole = true;
};

// If there are not as many names as descriptors, or not as many descriptors as was said, it is not
// known which is which. Then all are closed here: a forgotten one would pin a guest's memory as
// long as this process lives.
ListenFds TakeListenFds() {
  const int listed = sd_listen_fds(/*unset_environment=*/0);
  const int came = listed == -EBADF ? CountOpen() : listed;
  char** names = nullptr;
  const int named = sd_listen_fds_with_names(/*unset_environment=*/1, &names);
  ListenFds taken{.fds = {}, .whole = listed >= 0 && named == listed};
  for (int i = 0; i < came; ++i) {
    UniqueFd fd(SD_LISTEN_FDS_START + i);
    if (taken.whole) taken.fds.push_back({.name = names[i], .fd = std::move(fd)});
  }
  for (int i = 0; i < named; ++i) free(names[i]);
  free(names);
  return taken;
}

absl::StatusOr<UniqueFd> Connect(const std::string& address) {
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) return Failed(strerror(errno));
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  memcpy(to.sun_path, address.data(), address.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  if (connect(socket_fd.borrow().raw(), reinterpret_cast<const sockaddr*>(&to), size) != 0) {
    return Failed(strerror(errno));
  }
  return socket_fd;
}

// False: the deadline has passed.
bool AwaitWritable(BorrowedFd socket_fd, steady_clock::time_point deadline) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
  if (left.count() <= 0) return false;
  pollfd entry = {.fd = socket_fd.raw(), .events = POLLOUT, .revents = 0};
  poll(&entry, 1, static_cast<int>(left.count()));
  return true;
}

}  // namespace

std::unique_ptr<ServiceManager> ServiceManager::FromEnvironment() {
  ListenFds came = TakeListenFds();
  return std::make_unique<ServiceManager>(TakeAddress(), std::move(came.fds), came.whole);
}

absl::Status ServiceManager::Notify(std::string_view lines, std::span<const BorrowedFd> fds) const {
  if (!present()) return absl::OkStatus();
  const steady_clock::time_point deadline = steady_clock::now() + kServiceManagerTimeout;
  absl::StatusOr<UniqueFd> socket_fd = Connect(address_);
  if (!socket_fd.ok()) return socket_fd.status();
  for (;;) {
    const absl::Status sent =
        SendMessage(socket_fd->borrow(), std::as_bytes(std::span(lines)), fds);
    if (sent.ok()) return sent;
    if (ReasonOf(sent) != "SOCKET_FULL") return Failed(std::string(sent.message()));
    if (!AwaitWritable(socket_fd->borrow(), deadline)) return Failed("does not read its socket");
  }
}

absl::Status ServiceManager::Barrier() const {
  if (!present()) return absl::OkStatus();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Failed(strerror(errno));
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const BorrowedFd sent = writer.borrow();
  if (absl::Status status = Notify("BARRIER=1", {&sent, 1}); !status.ok()) return status;
  writer.Reset();
  // The manager's copy is the last one: closing it hangs the pipe up.
  pollfd entry = {.fd = reader.borrow().raw(), .events = 0, .revents = 0};
  const int ready = poll(&entry, 1, static_cast<int>(kServiceManagerTimeout.count()));
  return ready == 1 ? absl::OkStatus() : Failed("does not answer a barrier");
}

}  // namespace rehome
