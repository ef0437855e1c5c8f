// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/unix_listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "client/testing/temp_socket.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// 0, or errno.
int TryConnect(const std::string& path) {
  const UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const int result =
      connect(connection.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  return result == 0 ? 0 : errno;
}

// A socket as a program that knows no lock leaves it or holds it.
UniqueFd BindForeign(const std::string& path, bool listening) {
  UniqueFd foreign(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  EXPECT_EQ(bind(foreign.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
            0);
  if (listening) {
    EXPECT_EQ(listen(foreign.borrow().raw(), 1), 0);
  }
  return foreign;
}

class UnixListenerTest : public ::testing::Test {
 protected:
  std::string ErrorOf(const std::string& path) {
    return ReasonOf(UnixListener::Bind({.path = path}).status());
  }
  const testing::TempSocket socket_;
};

TEST_F(UnixListenerTest, ListensWithTheModeAskedFor) {
  const auto listener = UnixListener::Bind({.path = socket_.path(), .mode = 0600});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(TryConnect(socket_.path()), 0);
  struct stat found {};
  ASSERT_EQ(stat(socket_.path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  EXPECT_NE(fcntl(listener->listener().raw(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(fcntl(listener->listener().raw(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(UnixListenerTest, SecondOneIsRefusedAndDisturbsNothing) {
  const auto first = UnixListener::Bind({.path = socket_.path()});
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(ErrorOf(socket_.path()), "SOCKET_IN_USE");
  EXPECT_EQ(TryConnect(socket_.path()), 0);
}

TEST_F(UnixListenerTest, SocketOfADeadDaemonIsReplaced) {
  BindForeign(socket_.path(), /*listening=*/true).Reset();
  ASSERT_EQ(TryConnect(socket_.path()), ECONNREFUSED);
  const auto listener = UnixListener::Bind({.path = socket_.path()});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(TryConnect(socket_.path()), 0);
}

TEST_F(UnixListenerTest, SocketOfALivingForeignProgramIsLeftAlone) {
  const UniqueFd foreign = BindForeign(socket_.path(), /*listening=*/true);
  EXPECT_EQ(ErrorOf(socket_.path()), "SOCKET_IN_USE");
  EXPECT_EQ(TryConnect(socket_.path()), 0);
}

TEST_F(UnixListenerTest, OtherFilesAreLeftAlone) {
  std::ofstream(socket_.path()) << "precious";
  EXPECT_EQ(ErrorOf(socket_.path()), "SOCKET_PATH_OCCUPIED");
  std::string content;
  std::ifstream(socket_.path()) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(UnixListenerTest, PathsThatCannotBeAreRefused) {
  EXPECT_EQ(ErrorOf(""), "SOCKET_FAILED");
  EXPECT_EQ(ErrorOf(socket_.directory() + "/" + std::string(108, 'x')), "SOCKET_FAILED");
  EXPECT_EQ(ErrorOf(socket_.directory() + "/missing/s"), "SOCKET_FAILED");
}

TEST_F(UnixListenerTest, FileGoesWithTheListener) {
  {
    const auto listener = UnixListener::Bind({.path = socket_.path()});
    ASSERT_TRUE(listener.ok());
  }
  EXPECT_EQ(TryConnect(socket_.path()), ENOENT);
  EXPECT_TRUE(UnixListener::Bind({.path = socket_.path()}).ok()) << "the lock is free again";
}

TEST_F(UnixListenerTest, FileThatSomebodyReplacedStays) {
  {
    const auto listener = UnixListener::Bind({.path = socket_.path()});
    ASSERT_TRUE(listener.ok());
    ASSERT_EQ(unlink(socket_.path().c_str()), 0);
    std::ofstream(socket_.path()) << "somebody else's";
  }
  EXPECT_EQ(access(socket_.path().c_str(), F_OK), 0);
}

}  // namespace
}  // namespace rehome
