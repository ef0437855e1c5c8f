// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Long enough for any machine; nothing waits this long unless it fails.
constexpr int kPatienceMs = 10'000;

class ConsoleTest : public testing::Test {
 protected:
  ConsoleTest() {
    char dir[] = "/tmp/rehome-console-XXXXXX";
    EXPECT_NE(mkdtemp(dir), nullptr);
    dir_ = dir;
    path_ = dir_ + "/console";
  }
  ~ConsoleTest() override { std::filesystem::remove_all(dir_); }

  UniqueFd Attach() const {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(connect(fd.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
              0);
    return fd;
  }
  static void Type(const UniqueFd& client, const std::string& text) {
    EXPECT_EQ(send(client.borrow().raw(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  static void Print(Console& console, const std::string& text) {
    for (const char c : text) console.Send(static_cast<uint8_t>(c));
  }
  // Prints until the client has got something, i.e. until it has been accepted.
  static void AwaitAccepted(Console& console, const UniqueFd& client) {
    pollfd poller{client.borrow().raw(), POLLIN, 0};
    for (int i = 0; i < kPatienceMs && poll(&poller, 1, 1) == 0; ++i) Print(console, "#");
    char hashes[kPatienceMs];
    EXPECT_GT(recv(client.borrow().raw(), hashes, sizeof(hashes), MSG_DONTWAIT), 0);
  }
  // Receives exactly `size` bytes, or fewer at the end or when patience is over.
  static std::string Receive(const UniqueFd& client, size_t size) {
    std::string text;
    while (text.size() < size) {
      pollfd poller{client.borrow().raw(), POLLIN, 0};
      if (poll(&poller, 1, kPatienceMs) <= 0) break;
      char buffer[4096];
      const ssize_t count =
          recv(poller.fd, buffer, std::min(sizeof(buffer), size - text.size()), 0);
      if (count <= 0) break;
      text.append(buffer, count);
    }
    return text;
  }
  // What the guest would read if it polled for as long as it takes.
  static std::string ReadTyped(Console& console, size_t size) {
    std::string text;
    for (int i = 0; i < kPatienceMs && text.size() < size; ++i) {
      uint8_t buffer[16];
      const size_t count = console.Receive(buffer);
      text.append(reinterpret_cast<char*>(buffer), count);
      if (count == 0) poll(nullptr, 0, 1);
    }
    return text;
  }

  std::string dir_, path_;
};

TEST_F(ConsoleTest, AClientSeesOutputAndCanType) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  const UniqueFd client = Attach();
  AwaitAccepted(**console, client);
  Print(**console, "hello");
  EXPECT_EQ(Receive(client, 5), "hello");
  Type(client, "typed");
  EXPECT_EQ(ReadTyped(**console, 5), "typed");
}

TEST_F(ConsoleTest, TheNextClientIsServedWhenTheFirstLeaves) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  UniqueFd first = Attach();
  AwaitAccepted(**console, first);
  const UniqueFd second = Attach();
  Print(**console, "for the first");
  EXPECT_EQ(Receive(first, 13), "for the first");
  first.Reset();
  AwaitAccepted(**console, second);
  Print(**console, "for the second");
  EXPECT_EQ(Receive(second, 14), "for the second");
}

TEST_F(ConsoleTest, WhatALeavingClientTypedStillReachesTheGuest) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  UniqueFd client = Attach();
  AwaitAccepted(**console, client);
  Type(client, "last words");
  client.Reset();
  EXPECT_EQ(ReadTyped(**console, 10), "last words");
  const UniqueFd next = Attach();
  // Only a guest that reads to the end makes room; it does, at every look.
  ReadTyped(**console, 0);
  uint8_t byte[1];
  (*console)->Receive(byte);
  AwaitAccepted(**console, next);
}

TEST_F(ConsoleTest, AClientThatOnlyListensStaysAttached) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  const UniqueFd client = Attach();
  AwaitAccepted(**console, client);
  ASSERT_EQ(shutdown(client.borrow().raw(), SHUT_WR), 0);
  uint8_t byte[1];
  EXPECT_EQ((*console)->Receive(byte), 0u);
  Print(**console, "still here");
  EXPECT_EQ(Receive(client, 10), "still here");
}

TEST_F(ConsoleTest, ASlowClientGetsEverythingUpToTheBound) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  const UniqueFd client = Attach();
  AwaitAccepted(**console, client);
  std::string text;
  for (int i = 0; text.size() < kMaxPending; ++i) text += std::to_string(i) + "\n";
  text.resize(kMaxPending);
  Print(**console, text);
  EXPECT_EQ(Receive(client, text.size()), text);
}

TEST_F(ConsoleTest, BeyondTheBoundOutputIsDroppedAndCounted) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  const UniqueFd client = Attach();
  AwaitAccepted(**console, client);
  (*console)->Hold();
  Print(**console, std::string(1 << 20, 'x'));
  ConsoleState state;
  (*console)->Save(state);
  EXPECT_EQ(state.pending.size(), kMaxPending);
  EXPECT_GT(state.dropped_bytes, 0u);
}

// The promise of the header: a stream of bytes in both directions, cut by a handover at any place,
// arrives whole and once.
TEST_F(ConsoleTest, AHandoverLosesAndDoublesNothing) {
  auto source = Console::Listen(path_);
  ASSERT_TRUE(source.ok()) << source.status();
  const UniqueFd client = Attach();
  AwaitAccepted(**source, client);
  // Fill the socket, so that some of the output is still with the VMM.
  std::string sent;
  ConsoleState state;
  while (state.pending.size() < 1000) {
    const std::string line = "line " + std::to_string(sent.size()) + "\n";
    Print(**source, line);
    sent += line;
    (*source)->Hold();
    (*source)->Save(state);
    if (state.pending.size() < 1000) (*source)->Release();
  }
  Type(client, "typed during the migration");
  uint8_t some[5];
  ASSERT_EQ((*source)->Receive(some), 5u);
  (*source)->Save(state);
  ASSERT_TRUE(state.client_attached);

  auto target = Console::Adopt(*Duplicate((*source)->listener()), *Duplicate((*source)->client()));
  ASSERT_TRUE(target.ok()) << target.status();
  (*target)->Restore(state);
  source->reset();
  Print(**target, "and on\n");
  sent += "and on\n";
  (*target)->Release();
  EXPECT_EQ(Receive(client, sent.size()), sent);
  EXPECT_EQ(ReadTyped(**target, 21), " during the migration");
}

TEST_F(ConsoleTest, WhoAttachesDuringAMigrationIsServedByTheTarget) {
  auto source = Console::Listen(path_);
  ASSERT_TRUE(source.ok()) << source.status();
  (*source)->Hold();
  const UniqueFd client = Attach();
  Print(**source, "the source must not answer");
  EXPECT_FALSE((*source)->client().valid());
  ConsoleState state;
  (*source)->Save(state);
  EXPECT_FALSE(state.client_attached);
  auto target = Console::Adopt(*Duplicate((*source)->listener()), UniqueFd());
  ASSERT_TRUE(target.ok()) << target.status();
  (*target)->Restore(state);
  (*target)->Release();
  source->reset();
  AwaitAccepted(**target, client);
  Print(**target, "here");
  EXPECT_EQ(Receive(client, 4), "here");
}

TEST_F(ConsoleTest, AfterACancelledMigrationTheSourceAcceptsAgain) {
  auto source = Console::Listen(path_);
  ASSERT_TRUE(source.ok()) << source.status();
  (*source)->Hold();
  const UniqueFd client = Attach();
  (*source)->Release();
  AwaitAccepted(**source, client);
}

TEST_F(ConsoleTest, AClientThatLeftDuringTheMigrationIsNotAttachedOnTheTarget) {
  auto source = Console::Listen(path_);
  ASSERT_TRUE(source.ok()) << source.status();
  UniqueFd client = Attach();
  AwaitAccepted(**source, client);
  (*source)->Hold();
  UniqueFd handed_over = *Duplicate((*source)->client());
  client.Reset();
  Print(**source, "into the void");
  ConsoleState state;
  (*source)->Save(state);
  EXPECT_FALSE(state.client_attached);
  auto target = Console::Adopt(*Duplicate((*source)->listener()), std::move(handed_over));
  ASSERT_TRUE(target.ok()) << target.status();
  (*target)->Restore(state);
  EXPECT_FALSE((*target)->client().valid());
}

TEST_F(ConsoleTest, APathInUseIsRefusedAndAStaleOneReplaced) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  EXPECT_EQ(ReasonOf(Console::Listen(path_).status()), "CONSOLE_IN_USE");
  console->reset();
  ASSERT_TRUE(std::filesystem::exists(path_));
  EXPECT_TRUE(Console::Listen(path_).ok());
}

TEST_F(ConsoleTest, AFileThatIsNoSocketIsLeftAlone) {
  std::fclose(std::fopen(path_.c_str(), "w"));
  EXPECT_EQ(ReasonOf(Console::Listen(path_).status()), "CONSOLE_IN_USE");
  EXPECT_TRUE(std::filesystem::is_regular_file(path_));
}

TEST_F(ConsoleTest, ATooLongPathIsRefused) {
  EXPECT_EQ(ReasonOf(Console::Listen(std::string(200, 'x')).status()), "CONSOLE_PATH_TOO_LONG");
}

TEST_F(ConsoleTest, TheOwnerThatEndsRemovesTheSocketFile) {
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  (*console)->RemoveSocketFile();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ConsoleTest, DescriptorsOfAnotherKindAreRefused) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd connected(pair[0]), other(pair[1]);
  EXPECT_EQ(ReasonOf(Console::Adopt(std::move(connected), UniqueFd()).status()), "CONSOLE_BAD_FD");
  auto console = Console::Listen(path_);
  ASSERT_TRUE(console.ok()) << console.status();
  (*console)->Hold();
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  EXPECT_EQ(
      ReasonOf(Console::Adopt(*Duplicate((*console)->listener()), std::move(reader)).status()),
      "CONSOLE_BAD_FD");
}

TEST_F(ConsoleTest, WithoutASocketOutputIsDropped) {
  auto console = Console::Unplugged();
  ASSERT_TRUE(console.ok()) << console.status();
  Print(**console, "nobody hears");
  uint8_t byte[1];
  EXPECT_EQ((*console)->Receive(byte), 0u);
}

}  // namespace
}  // namespace rehome
