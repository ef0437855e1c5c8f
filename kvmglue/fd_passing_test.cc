// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/fd_passing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr size_t kMaxBytes = 256;

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string Text(const ReceivedMessage& message) {
  return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

SocketPair Pair() {
  absl::StatusOr<SocketPair> pair = CreateSocketPair();
  EXPECT_TRUE(pair.ok()) << pair.status();
  return *std::move(pair);
}

UniqueFd InheritableFile() {
  UniqueFd file(memfd_create("passed", 0));
  EXPECT_EQ(fcntl(file.borrow().raw(), F_GETFD), 0);
  return file;
}

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator directory("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(directory), end(directory)));
}

TEST(SocketPair, BothEndsAreCloseOnExecAndNonBlocking) {
  const SocketPair pair = Pair();
  for (const UniqueFd* end : {&pair.first, &pair.second}) {
    EXPECT_EQ(fcntl(end->borrow().raw(), F_GETFD), FD_CLOEXEC);
    EXPECT_NE(fcntl(end->borrow().raw(), F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST(FdPassing, BytesArriveAsOneDatagramEach) {
  const SocketPair pair = Pair();
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes("first"), {}).ok());
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes("second one"), {}).ok());
  for (const char* expected : {"first", "second one"}) {
    const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(pair.second.borrow(), kMaxBytes);
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(Text(*message), expected);
    EXPECT_TRUE(message->fds.empty());
  }
}

TEST(FdPassing, ReceivedDescriptorsAreCloseOnExecAndTheSameFiles) {
  const SocketPair pair = Pair();
  const UniqueFd first = InheritableFile();
  const UniqueFd second = InheritableFile();
  const BorrowedFd sent[] = {first.borrow(), second.borrow()};
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes("x"), sent).ok());
  const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(pair.second.borrow(), kMaxBytes);
  ASSERT_TRUE(message.ok()) << message.status();
  ASSERT_EQ(message->fds.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(fcntl(message->fds[i].borrow().raw(), F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(Identify(message->fds[i].borrow())->id, Identify(sent[i])->id);
  }
}

TEST(FdPassing, AsManyDescriptorsAsTheProtocolAllows) {
  const SocketPair pair = Pair();
  const UniqueFd file = InheritableFile();
  const std::vector<BorrowedFd> sent(kMaxFdsPerMessage, file.borrow());
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes("x"), sent).ok());
  const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(pair.second.borrow(), kMaxBytes);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->fds.size(), kMaxFdsPerMessage);
}

TEST(SendMessage, RefusesTooManyDescriptorsAndEmptyDatagrams) {
  const SocketPair pair = Pair();
  const std::vector<BorrowedFd> many(kMaxFdsPerMessage + 1, pair.first.borrow());
  absl::Status status = SendMessage(pair.first.borrow(), Bytes("x"), many);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "TOO_MANY_FDS");
  EXPECT_EQ(ReasonOf(SendMessage(pair.first.borrow(), {}, {})), "EMPTY_MESSAGE");
  EXPECT_EQ(ReasonOf(ReceiveMessage(pair.second.borrow(), kMaxBytes).status()), "WOULD_BLOCK");
}

TEST(SendMessage, ToAPeerThatDoesNotReadNeverBlocks) {
  const SocketPair pair = Pair();
  ASSERT_EQ(fcntl(pair.first.borrow().raw(), F_SETFL, 0), 0);  // even where the socket would
  constexpr int kMoreThanAnyBuffer = 1 << 16;
  const std::string kilobyte(1024, 'x');
  absl::Status status;
  for (int i = 0; i < kMoreThanAnyBuffer && status.ok(); ++i) {
    status = SendMessage(pair.first.borrow(), Bytes(kilobyte), {});
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "SOCKET_FULL");
}

TEST(SendMessage, LargerThanTheSendBufferIsTooLarge) {
  const SocketPair pair = Pair();
  const std::string huge(64u << 20, 'x');
  EXPECT_EQ(ReasonOf(SendMessage(pair.first.borrow(), Bytes(huge), {})), "MESSAGE_TOO_LARGE");
}

TEST(SendMessage, ToAGonePeerRaisesNoSignal) {
  SocketPair pair = Pair();
  pair.second.Reset();
  const absl::Status status = SendMessage(pair.first.borrow(), Bytes("x"), {});  // no SIGPIPE
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "PEER_GONE");
}

TEST(SendMessage, OfAClosedDescriptorIsBadFdAndSendsNothing) {
  const SocketPair pair = Pair();
  const BorrowedFd bad[] = {BorrowedFd(1 << 20)};
  const absl::Status status = SendMessage(pair.first.borrow(), Bytes("x"), bad);
  EXPECT_EQ(ReasonOf(status), "BAD_FD");
  EXPECT_EQ(ReasonOf(ReceiveMessage(pair.second.borrow(), kMaxBytes).status()), "WOULD_BLOCK");
}

TEST(ReceiveMessage, TellsNothingThereFromEndOfConnection) {
  SocketPair pair = Pair();
  absl::Status status = ReceiveMessage(pair.second.borrow(), kMaxBytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "WOULD_BLOCK");
  pair.first.Reset();
  status = ReceiveMessage(pair.second.borrow(), kMaxBytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "PEER_GONE");
}

TEST(ReceiveMessage, ExactlyFullBufferIsNotTruncated) {
  const SocketPair pair = Pair();
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes(std::string(kMaxBytes, 'x')), {}).ok());
  const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(pair.second.borrow(), kMaxBytes);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->bytes.size(), kMaxBytes);
}

TEST(ReceiveMessage, TruncatedDataClosesTheDescriptorsThatCame) {
  const SocketPair pair = Pair();
  const UniqueFd file = InheritableFile();
  const BorrowedFd sent[] = {file.borrow()};
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes(std::string(kMaxBytes + 1, 'x')), sent).ok());
  const size_t before = OpenDescriptors();
  const absl::Status status = ReceiveMessage(pair.second.borrow(), kMaxBytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "MESSAGE_TRUNCATED");
  EXPECT_EQ(OpenDescriptors(), before);
}

// More descriptors than this side has room for: the kernel installs what fits and sets MSG_CTRUNC.
void SendRawFds(BorrowedFd socket, BorrowedFd file, size_t count) {
  const std::vector<int> raw(count, file.raw());
  std::vector<char> control(CMSG_SPACE(count * sizeof(int)));
  char byte = 'x';
  iovec data = {.iov_base = &byte, .iov_len = 1};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof(int));
  std::memcpy(CMSG_DATA(header), raw.data(), count * sizeof(int));
  ASSERT_EQ(sendmsg(socket.raw(), &message, 0), 1);
}

TEST(ReceiveMessage, TruncatedControlDataClosesTheDescriptorsThatCame) {
  const SocketPair pair = Pair();
  const UniqueFd file = InheritableFile();
  for (const size_t count : {kMaxFdsPerMessage + 1, kMaxFdsPerMessage + 2, size_t{253}}) {
    SendRawFds(pair.first.borrow(), file.borrow(), count);
    const size_t before = OpenDescriptors();
    const absl::Status status = ReceiveMessage(pair.second.borrow(), kMaxBytes).status();
    EXPECT_EQ(ReasonOf(status), "MESSAGE_TRUNCATED") << count;
    EXPECT_EQ(OpenDescriptors(), before) << count;
  }
}

TEST(ReceiveMessage, DescriptorsThatExceedOurLimitAreATruncation) {
  const SocketPair pair = Pair();
  const UniqueFd file = InheritableFile();
  const std::vector<BorrowedFd> sent(8, file.borrow());
  ASSERT_TRUE(SendMessage(pair.first.borrow(), Bytes("x"), sent).ok());
  const UniqueFd lowest(fcntl(0, F_DUPFD_CLOEXEC, 0));
  rlimit saved = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &saved), 0);
  rlimit tight = saved;
  tight.rlim_cur = static_cast<rlim_t>(lowest.borrow().raw()) + 3;  // room for two of eight
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  const absl::Status status = ReceiveMessage(pair.second.borrow(), kMaxBytes).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &saved), 0);
  EXPECT_EQ(ReasonOf(status), "MESSAGE_TRUNCATED");
  const UniqueFd next(fcntl(0, F_DUPFD_CLOEXEC, 0));
  EXPECT_EQ(next.borrow().raw(), lowest.borrow().raw() + 1);  // nothing stayed open
}

// A child process that does what it is told and is reaped in every case.
class Child {
 public:
  template <typename Body>
  explicit Child(Body body) : pid_(fork()) {
    if (pid_ == 0) {
      body();
      _exit(0);
    }
  }
  ~Child() { Reap(); }
  pid_t pid() const { return pid_; }
  void AwaitZombie() const {
    siginfo_t info = {};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
  }
  void Reap() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_;
};

class Listener {
 public:
  Listener() : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    address_.sun_family = AF_UNIX;
    const std::string name = absl::StrCat("rehome-fd-passing-test-", getpid());
    std::memcpy(address_.sun_path + 1, name.data(), name.size());  // abstract: leaves no file
    size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    EXPECT_EQ(bind(socket_.borrow().raw(), Generic(), size_), 0);
    EXPECT_EQ(listen(socket_.borrow().raw(), 1), 0);
  }
  UniqueFd Connect() const {
    UniqueFd client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(client.borrow().raw(), Generic(), size_), 0);
    return client;
  }
  UniqueFd Accept() const {
    return UniqueFd(accept4(socket_.borrow().raw(), nullptr, nullptr, SOCK_CLOEXEC));
  }

 private:
  const sockaddr* Generic() const { return reinterpret_cast<const sockaddr*>(&address_); }
  UniqueFd socket_;
  sockaddr_un address_ = {};
  socklen_t size_ = 0;
};

TEST(IdentifyPeer, NamesTheProcessThatConnectedAndPinsItsIdentity) {
  const Listener listener;
  Child child([&] {
    const UniqueFd client = listener.Connect();
    pause();
  });
  const UniqueFd connection = listener.Accept();
  const absl::StatusOr<PeerIdentity> peer = IdentifyPeer(connection.borrow());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, child.pid());
  EXPECT_EQ(peer->uid, getuid());
  EXPECT_EQ(peer->gid, getgid());
  EXPECT_EQ(fcntl(peer->pidfd.borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_TRUE(SendSignal(peer->pidfd.borrow(), SIGKILL).ok());
  child.AwaitZombie();
  pollfd readable = {.fd = peer->pidfd.borrow().raw(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&readable, 1, 0), 1);
  child.Reap();
  EXPECT_EQ(ReasonOf(SendSignal(peer->pidfd.borrow(), SIGKILL)), "PROCESS_GONE");
}

TEST(IdentifyPeer, OfAnExitedPeerIsPeerGoneReapedOrNot) {
  const Listener listener;
  Child child([&] { (void)listener.Connect().Release(); });
  const UniqueFd connection = listener.Accept();
  child.AwaitZombie();
  absl::StatusOr<PeerIdentity> peer = IdentifyPeer(connection.borrow());
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(peer.status()), "PEER_GONE");
  child.Reap();
  peer = IdentifyPeer(connection.borrow());
  EXPECT_EQ(ReasonOf(peer.status()), "PEER_GONE");
}

TEST(IdentifyPeer, OfSomethingElseThanASocketSaysSo) {
  const UniqueFd file = InheritableFile();
  EXPECT_EQ(ReasonOf(IdentifyPeer(file.borrow()).status()), "NOT_A_SOCKET");
  EXPECT_EQ(ReasonOf(IdentifyPeer(BorrowedFd()).status()), "BAD_FD");
}

TEST(OpenPidfd, IsCloseOnExec) {
  const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(getpid());
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  EXPECT_EQ(fcntl(pidfd->borrow().raw(), F_GETFD), FD_CLOEXEC);
}

TEST(OpenPidfd, OfAGoneProcessOrNoPidFails) {
  Child child([] {});
  const pid_t pid = child.pid();
  child.Reap();
  const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
  EXPECT_EQ(pidfd.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(pidfd.status()), "PROCESS_GONE");
  EXPECT_EQ(ReasonOf(OpenPidfd(0).status()), "BAD_PID");
}

TEST(OpenPidfd, OfAThreadThatLeadsNoProcessSaysSo) {
  std::promise<pid_t> tid;
  std::promise<void> done;
  std::thread other([&] {
    tid.set_value(gettid());
    done.get_future().wait();
  });
  const absl::StatusOr<UniqueFd> pidfd = OpenPidfd(tid.get_future().get());
  done.set_value();
  other.join();
  EXPECT_EQ(pidfd.status().code(), absl::StatusCode::kInvalidArgument) << pidfd.status();
  EXPECT_EQ(ReasonOf(pidfd.status()), "BAD_PID");
}

}  // namespace
}  // namespace rehome
