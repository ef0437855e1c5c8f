// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/console.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"

namespace rehome {
namespace {

// Who comes while another is attached waits here, and who comes during a migration too.
constexpr int kListenBacklog = 8;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "CONSOLE_PATH_TOO_LONG",
                      "a socket path has 1 to 107 bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

UniqueFd StreamSocket() {
  return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// A file that a VMM left behind: it is a socket and nobody listens.
bool IsStale(const sockaddr_un& address) {
  struct stat file {};
  if (lstat(address.sun_path, &file) < 0 || !S_ISSOCK(file.st_mode)) return false;
  const UniqueFd probe = StreamSocket();
  return probe.valid() &&
         connect(probe.borrow().raw(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)) < 0 &&
         errno == ECONNREFUSED;
}

absl::Status Bind(const UniqueFd& listener, const sockaddr_un& address) {
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  if (bind(listener.borrow().raw(), raw, sizeof(address)) == 0) return absl::OkStatus();
  if (errno != EADDRINUSE) return OsError("bind", address.sun_path, errno);
  if (!IsStale(address)) {
    return MakeStatus(absl::StatusCode::kAlreadyExists, "CONSOLE_IN_USE",
                      std::string("somebody listens on ") + address.sun_path);
  }
  unlink(address.sun_path);
  if (bind(listener.borrow().raw(), raw, sizeof(address)) == 0) return absl::OkStatus();
  return OsError("bind", address.sun_path, errno);
}

bool IsUnixStream(BorrowedFd fd, bool listening) {
  int domain = 0, type = 0, accepting = 0;
  socklen_t length = sizeof(int);
  return getsockopt(fd.raw(), SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
         getsockopt(fd.raw(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
         getsockopt(fd.raw(), SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length) == 0 &&
         domain == AF_UNIX && type == SOCK_STREAM && (accepting != 0) == listening;
}

}  // namespace

Console::Console(UniqueFd listener, UniqueFd client, UniqueFd wake, bool held)
    : listener_(std::move(listener)),
      wake_(std::move(wake)),
      client_(std::move(client)),
      held_(held) {
  pending_.reserve(kMaxPending);
}

absl::StatusOr<std::unique_ptr<Console>> Console::Create(UniqueFd listener, UniqueFd client,
                                                         bool held) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return OsError("eventfd", "console", errno);
  std::unique_ptr<Console> console(
      new Console(std::move(listener), std::move(client), std::move(wake), held));
  if (console->listener_.valid()) {
    console->thread_ = std::thread([raw = console.get()] { raw->Loop(); });
  }
  return console;
}

absl::StatusOr<std::unique_ptr<Console>> Console::Unplugged() {
  return Create(UniqueFd(), UniqueFd(), false);
}

absl::StatusOr<std::unique_ptr<Console>> Console::Listen(const std::string& path) {
  const auto address = Address(path);
  if (!address.ok()) return address.status();
  UniqueFd listener = StreamSocket();
  if (!listener.valid()) return OsError("socket", path, errno);
  if (absl::Status status = Bind(listener, *address); !status.ok()) return status;
  if (listen(listener.borrow().raw(), kListenBacklog) < 0) return OsError("listen", path, errno);
  return Create(std::move(listener), UniqueFd(), false);
}

absl::StatusOr<std::unique_ptr<Console>> Console::Adopt(UniqueFd listener, UniqueFd client) {
  if (!IsUnixStream(listener.borrow(), true) ||
      (client.valid() && !IsUnixStream(client.borrow(), false))) {
    return MakeStatus(absl::StatusCode::kInvalidArgument, "CONSOLE_BAD_FD",
                      "console descriptors must be UNIX stream sockets");
  }
  // Another VMM may have opened it otherwise, and our thread must not block in accept().
  const int flags = fcntl(listener.borrow().raw(), F_GETFL);
  if (fcntl(listener.borrow().raw(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return OsError("fcntl", "console", errno);
  }
  return Create(std::move(listener), std::move(client), true);
}

Console::~Console() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

void Console::Wake() {
  const uint64_t one = 1;
  // Full is as good as written: the thread is about to look anyway.
  [[maybe_unused]] const ssize_t ignored = write(wake_.borrow().raw(), &one, sizeof(one));
}

void Console::Loop() {
  for (;;) {
    pollfd fds[3] = {{wake_.borrow().raw(), POLLIN, 0}, {-1, POLLIN, 0}, {-1, 0, 0}};
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
      if (!held_ && !client_.valid()) fds[1].fd = listener_.borrow().raw();
      if (!held_ && client_.valid()) {
        fds[2].fd = hung_up_ ? -1 : client_.borrow().raw();
        fds[2].events = pending_.empty() ? 0 : POLLOUT;
      }
      if (CanHearLocked()) {
        fds[2].fd = client_.borrow().raw();
        fds[2].events |= POLLIN;
      }
    }
    if (poll(fds, 3, -1) < 0) continue;
    uint64_t count;
    [[maybe_unused]] const ssize_t ignored = read(fds[0].fd, &count, sizeof(count));
    Serve(fds[1].revents != 0);
    // A client that has hung up may have left input.
    if ((fds[2].events & POLLIN) != 0 && (fds[2].revents & (POLLIN | POLLHUP)) != 0) {
      const std::lock_guard<std::mutex> lock(handler_mutex_);
      if (input_handler_) input_handler_();
    }
  }
}

bool Console::CanHearLocked() const {
  return input_awaited_ && client_.valid() && !gone_ && !input_ended_;
}

void Console::SetInputHandler(std::function<void()> handler) {
  const std::lock_guard<std::mutex> lock(handler_mutex_);
  input_handler_ = std::move(handler);
}

void Console::AwaitInput(bool awaited) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (input_awaited_ == awaited) return;
    input_awaited_ = awaited;
  }
  Wake();
}

void Console::Serve(bool listener_ready) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (held_) return;
  FlushLocked();
  if (client_.valid() && !hung_up_) NoticeHangUpLocked();
  if (listener_ready && !client_.valid()) {
    client_ =
        UniqueFd(accept4(listener_.borrow().raw(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
}

// POLLHUP means that the client has closed, not only stopped typing. What it typed before is kept
// for the guest.
void Console::NoticeHangUpLocked() {
  pollfd client{client_.borrow().raw(), 0, 0};
  if (poll(&client, 1, 0) <= 0) return;
  char byte;
  if (recv(client.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
    DropClientLocked();
    return;
  }
  hung_up_ = true;
  pending_.clear();
}

void Console::DropClientLocked() {
  pending_.clear();
  gone_ = held_;
  if (held_) return;
  hung_up_ = false;
  input_ended_ = false;
  client_.Reset();
}

void Console::FlushLocked() {
  while (client_.valid() && !gone_ && !pending_.empty()) {
    const ssize_t sent =
        send(client_.borrow().raw(), pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      pending_.erase(0, static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      DropClientLocked();
    }
  }
}

void Console::Send(uint8_t byte) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!client_.valid() || hung_up_ || gone_) return;
  if (pending_.size() == kMaxPending) {
    ++dropped_bytes_;
    return;
  }
  const bool was_waiting = !pending_.empty();
  pending_.push_back(static_cast<char>(byte));
  // While the client is slow the thread sends; trying here at every byte would only cost exits.
  if (was_waiting && !held_) return;
  FlushLocked();
  if (!client_.valid() || !pending_.empty()) Wake();
}

size_t Console::Receive(std::span<uint8_t> out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!client_.valid() || gone_) return 0;
  const ssize_t count = recv(client_.borrow().raw(), out.data(), out.size(), MSG_DONTWAIT);
  if (count > 0) return static_cast<size_t>(count);
  if (count == 0) input_ended_ = true;
  // End of input alone is no reason to unplug: such a client may still be listening.
  if (count == 0 ? hung_up_ : errno != EAGAIN && errno != EINTR) {
    DropClientLocked();
    Wake();
  }
  return 0;
}

void Console::Hold() {
  const std::lock_guard<std::mutex> lock(mutex_);
  held_ = true;
}

void Console::Release() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = false;
    if (gone_) DropClientLocked();
  }
  Wake();
}

bool Console::held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

BorrowedFd Console::listener() const { return listener_.borrow(); }

BorrowedFd Console::client() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return client_.borrow();
}

void Console::Save(ConsoleState& state) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  state.client_attached = client_.valid() && !gone_;
  state.dropped_bytes = dropped_bytes_;
  state.pending = pending_;
}

void Console::Restore(const ConsoleState& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  dropped_bytes_ = state.dropped_bytes;
  input_ended_ = false;
  if (!state.client_attached) client_.Reset();  // ours alone: nobody has asked for it yet
  pending_ = client_.valid() ? state.pending : "";
}

void Console::RemoveSocketFile() {
  sockaddr_un address{};
  socklen_t length = sizeof(address);
  if (!listener_.valid() ||
      getsockname(listener_.borrow().raw(), reinterpret_cast<sockaddr*>(&address), &length) < 0 ||
      address.sun_path[0] == '\0') {
    return;
  }
  address.sun_path[sizeof(address.sun_path) - 1] = '\0';
  unlink(address.sun_path);
}

}  // namespace rehome
