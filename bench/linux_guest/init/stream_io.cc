// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/stream_io.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <utility>

namespace rehome::linux_guest {
namespace {

// Connections that wait to be accepted: one host, some at once.
constexpr int kBacklog = 16;

void AcceptAll(int listener, Complaints& faults, const std::function<void(Connection&)>& serve) {
  for (;;) {
    const int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) {
      faults.Add(WithErrno("accept"));
      continue;
    }
    // An answer leaves when it is written: times are measured by them.
    const int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    std::thread([socket, serve] {
      Connection connection{UniqueFd(socket)};
      serve(connection);
    }).detach();
  }
}

}  // namespace

Connection::Result Connection::Read(std::span<std::byte> out) {
  const size_t wanted = out.size();
  while (!out.empty()) {
    const ssize_t count = recv(socket_.borrow().raw(), out.data(), out.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 && out.size() == wanted) return Result::kEnd;
    if (count == 0) errno = EPROTO;
    if (count <= 0) return Result::kError;
    out = out.subspan(static_cast<size_t>(count));
  }
  return Result::kWhole;
}

Connection::Result Connection::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = send(socket_.borrow().raw(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Result::kError;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return Result::kWhole;
}

Connection::Result Connection::ReadLine(std::string& line, size_t longest) {
  line.clear();
  std::byte next{};
  for (;;) {
    const Result result = Read({&next, 1});
    if (result != Result::kWhole) return line.empty() ? result : Result::kError;
    if (next == std::byte{'\n'}) return Result::kWhole;
    if (line.size() == longest) {
      errno = EMSGSIZE;
      return Result::kError;
    }
    line.push_back(static_cast<char>(next));
  }
}

Connection::Result Connection::WriteLine(const std::string& line) {
  const std::string whole = line + "\n";
  return Write(std::as_bytes(std::span(whole)));
}

std::string ServePort(uint16_t port, Complaints& faults, std::function<void(Connection&)> serve) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (listener < 0 ||
      bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, kBacklog) != 0) {
    return WithErrno("port " + std::to_string(port));
  }
  std::thread([listener, &faults, serve = std::move(serve)] {
    AcceptAll(listener, faults, serve);
  }).detach();
  return "";
}

}  // namespace rehome::linux_guest
