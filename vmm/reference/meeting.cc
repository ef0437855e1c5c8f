// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/meeting.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>

namespace rehome {
namespace {

// Bound of a wait for a process that must come.
constexpr int kPatienceMs = 60'000;
constexpr int kBacklog = 8;  // processes that may wait here at once
constexpr size_t kMaxLine = 64;

}  // namespace

Meeting::Meeting() {
  char directory[] = "/tmp/rehome-meet-XXXXXX";
  EXPECT_NE(mkdtemp(directory), nullptr);
  directory_ = directory;
  path_ = directory_ + "/meet";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
  listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int fd = listener_.borrow().raw();
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd, kBacklog), 0);
}

Meeting::~Meeting() { std::filesystem::remove_all(directory_); }

std::vector<std::string> Meeting::Options(const std::vector<std::string>& places) const {
  std::vector<std::string> options = {"--meet-socket=" + path_};
  for (const std::string& place : places) options.push_back("--meet-at=" + place);
  return options;
}

UniqueFd Meeting::Await(std::string_view place) {
  pollfd poller = {listener_.borrow().raw(), POLLIN, 0};
  if (poll(&poller, 1, kPatienceMs) != 1) {
    ADD_FAILURE() << "nobody came to " << place;
    return UniqueFd();
  }
  UniqueFd peer(accept4(listener_.borrow().raw(), nullptr, nullptr, SOCK_CLOEXEC));
  char line[kMaxLine] = {};
  const ssize_t got = recv(peer.borrow().raw(), line, sizeof(line) - 1, 0);
  EXPECT_EQ(std::string(line, got < 0 ? 0 : static_cast<size_t>(got)), std::string(place) + "\n");
  return peer;
}

}  // namespace rehome
