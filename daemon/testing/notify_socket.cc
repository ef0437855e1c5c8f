// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/notify_socket.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "gtest/gtest.h"
#include "kvmglue/fd_passing.h"

namespace rehome::testing_support {
namespace {

constexpr size_t kMaxMessage = 4096;

std::string ValueOf(const std::string& message, const std::string& variable) {
  const std::string lines = "\n" + message + "\n";
  const std::string key = "\n" + variable + "=";
  const size_t found = lines.find(key);
  if (found == std::string::npos) return "";
  const size_t begin = found + key.size();
  return lines.substr(begin, lines.find('\n', begin) - begin);
}

}  // namespace

NotifySocket::NotifySocket() {
  static int next = 0;
  name_ = "rehome-notify-" + std::to_string(getpid()) + "-" + std::to_string(next++);
  Listen();
}

void NotifySocket::Listen() {
  socket_ = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path + 1, name_.data(), name_.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name_.size());
  EXPECT_EQ(bind(socket_.borrow().raw(), reinterpret_cast<const sockaddr*>(&address), size), 0);
}

std::unique_ptr<ServiceManager> NotifySocket::Start() const {
  std::vector<NamedFd> descriptors;
  for (const auto& [name, fd] : stored_) {
    absl::StatusOr<UniqueFd> copy = Duplicate(fd.borrow());
    EXPECT_TRUE(copy.ok());
    descriptors.push_back({.name = name, .fd = *std::move(copy)});
  }
  return std::make_unique<ServiceManager>(std::string(1, '\0') + name_, std::move(descriptors));
}

std::vector<std::string> NotifySocket::Drain() {
  std::vector<std::string> messages;
  for (;;) {
    absl::StatusOr<ReceivedMessage> received = ReceiveMessage(socket_.borrow(), kMaxMessage);
    if (!received.ok()) return messages;
    std::string message(reinterpret_cast<const char*>(received->bytes.data()),
                        received->bytes.size());
    Apply(message, std::move(received->fds));
    messages.push_back(std::move(message));
  }
}

// systemd 252, service_notify_message(): it keeps what comes with FDSTORE=1 under FDNAME, unless it
// has that open file already, and closes all of a name at FDSTOREREMOVE=1.
void NotifySocket::Apply(const std::string& message, std::vector<UniqueFd> fds) {
  const std::string name = ValueOf(message, "FDNAME");
  if (ValueOf(message, "FDSTOREREMOVE") == "1") stored_.erase(name);
  if (ValueOf(message, "FDSTORE") != "1") return;
  EXPECT_EQ(ValueOf(message, "FDPOLL"), "0") << "or a dead VMM's console would be dropped";
  for (UniqueFd& fd : fds) {
    const bool has_it = std::any_of(stored_.begin(), stored_.end(), [&fd](const auto& kept) {
      return IsSameOpenFile(kept.second.borrow(), fd.borrow());
    });
    if (!has_it) stored_[name] = std::move(fd);
  }
}

}  // namespace rehome::testing_support
