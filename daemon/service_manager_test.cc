// SPDX-License-Identifier: Apache-2.0
#include "daemon/service_manager.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <string>

#include "daemon/reasons.h"
#include "daemon/testing/child_harness.h"
#include "daemon/testing/notify_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_support::MakeMemfd;
using testing_support::NotifySocket;

constexpr const char* kVariables[] = {"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS",
                                      "LISTEN_FDNAMES"};

// Runs `check` in a child that looks as if a service manager had just started it. Its result is the
// exit code: descriptors from 3 on are taken, which is why it is a process of its own.
template <typename Check>
int InStartedProcess(const NotifySocket& socket, BorrowedFd first, BorrowedFd second, Check check) {
  const pid_t child = fork();
  if (child == 0) {
    const int high = fcntl(first.raw(), F_DUPFD, 100);
    const int higher = fcntl(second.raw(), F_DUPFD, 100);
    dup2(high, 3);
    dup2(higher, 4);
    setenv("NOTIFY_SOCKET", socket.variable().c_str(), 1);
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "m-1.block:m-1.config", 1);
    _exit(check());
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ServiceManager, TakesWhatExecGaveAndLeavesNothingOfItToChildren) {
  NotifySocket socket;
  const UniqueFd first = MakeMemfd(), second = MakeMemfd();
  const InodeId first_inode = Identify(first.borrow())->id;
  const InodeId second_inode = Identify(second.borrow())->id;
  const int failed = InStartedProcess(socket, first.borrow(), second.borrow(), [&] {
    const auto manager = ServiceManager::FromEnvironment();
    if (!manager->present()) return 1;
    for (const char* variable : kVariables) {
      if (getenv(variable) != nullptr) return 2;
    }
    if (!manager->descriptors_whole()) return 9;
    const std::vector<NamedFd> fds = manager->TakeDescriptors();
    if (fds.size() != 2 || fds[0].name != "m-1.block" || fds[1].name != "m-1.config") return 3;
    for (const NamedFd& fd : fds) {
      if ((fcntl(fd.fd.borrow().raw(), F_GETFD) & FD_CLOEXEC) == 0) return 4;
    }
    if (Identify(fds[0].fd.borrow())->id != first_inode) return 5;
    if (Identify(fds[1].fd.borrow())->id != second_inode) return 6;
    if (!manager->TakeDescriptors().empty()) return 7;
    return manager->Notify("READY=1").ok() ? 0 : 8;
  });
  EXPECT_EQ(failed, 0) << "the number of the check that failed";
  EXPECT_THAT(socket.Drain(), ElementsAre("READY=1"));
}

TEST(ServiceManager, VariablesForAnotherProcessAreNotOursAndAreDroppedAllTheSame) {
  NotifySocket socket;
  const UniqueFd first = MakeMemfd(), second = MakeMemfd();
  const int failed = InStartedProcess(socket, first.borrow(), second.borrow(), [&] {
    setenv("LISTEN_PID", "1", 1);
    const auto manager = ServiceManager::FromEnvironment();
    if (!manager->TakeDescriptors().empty() || !manager->descriptors_whole()) return 1;
    for (const char* variable : kVariables) {
      if (getenv(variable) != nullptr) return 2;
    }
    return fcntl(3, F_GETFD) >= 0 ? 0 : 3;
  });
  EXPECT_EQ(failed, 0) << "the number of the check that failed";
}

TEST(ServiceManager, DescriptorsWithoutANameEachAreClosedAndNotLeftOpenForLife) {
  NotifySocket socket;
  const UniqueFd first = MakeMemfd(), second = MakeMemfd();
  for (const char* names : {"", "m-1.block", "m-1.block:m-1.config:m-1.vm", "m-1.block:\\"}) {
    const int failed = InStartedProcess(socket, first.borrow(), second.borrow(), [&] {
      setenv("LISTEN_FDNAMES", names, 1);
      const auto manager = ServiceManager::FromEnvironment();
      if (!manager->TakeDescriptors().empty()) return 1;
      for (const char* variable : kVariables) {
        if (getenv(variable) != nullptr) return 2;
      }
      if (manager->descriptors_whole()) return 4;
      return fcntl(3, F_GETFD) < 0 && fcntl(4, F_GETFD) < 0 ? 0 : 3;
    });
    EXPECT_EQ(failed, 0) << "the number of the check that failed, with \"" << names << '"';
  }
}

TEST(ServiceManager, DescriptorsThatCameWithAClaimOfMoreAreClosedToo) {
  NotifySocket socket;
  const UniqueFd first = MakeMemfd(), second = MakeMemfd();
  for (const char* claimed : {"3", "2147483000"}) {
    const int failed = InStartedProcess(socket, first.borrow(), second.borrow(), [&] {
      close(5);  // whatever the test's own process has there
      setenv("LISTEN_FDS", claimed, 1);
      setenv("LISTEN_FDNAMES", "m-1.block:m-1.config:m-1.source-vm", 1);
      const auto manager = ServiceManager::FromEnvironment();
      if (!manager->TakeDescriptors().empty()) return 1;
      for (const char* variable : kVariables) {
        if (getenv(variable) != nullptr) return 2;
      }
      if (fcntl(3, F_GETFD) >= 0 || fcntl(4, F_GETFD) >= 0) return 3;
      return manager->descriptors_whole() ? 4 : 0;
    });
    EXPECT_EQ(failed, 0) << "the number of the check that failed, with " << claimed;
  }
}

TEST(ServiceManager, WithoutOneNothingIsSentAndNothingFails) {
  for (const char* address : {"", "relative/path", "/", "@"}) {
    setenv("NOTIFY_SOCKET", address, 1);
    const auto manager = ServiceManager::FromEnvironment();
    EXPECT_FALSE(manager->present()) << address;
    EXPECT_TRUE(manager->Notify("READY=1").ok());
    EXPECT_THAT(manager->TakeDescriptors(), IsEmpty());
    EXPECT_TRUE(manager->descriptors_whole());
  }
}

TEST(ServiceManager, ABarrierWaitsUntilTheManagerHasDoneWhatWasSaidBefore) {
  NotifySocket socket;
  socket.mutable_stored()["m-1.block"] = MakeMemfd();
  const auto manager = socket.Start();
  ASSERT_TRUE(manager->Notify("FDSTOREREMOVE=1\nFDNAME=m-1.block").ok());
  std::future<absl::Status> barrier =
      std::async(std::launch::async, [&] { return manager->Barrier(); });
  EXPECT_EQ(barrier.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout)
      << "nobody has read anything";
  std::vector<std::string> messages;
  while (messages.empty() || messages.back() != "BARRIER=1") {
    for (std::string& message : socket.Drain()) messages.push_back(std::move(message));
  }
  EXPECT_TRUE(barrier.get().ok());
  EXPECT_THAT(socket.stored(), IsEmpty());
}

TEST(ServiceManager, ABarrierThatNobodyAnswersIsAnErrorAfterItsTime) {
  NotifySocket socket;
  const auto manager = socket.Start();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(ReasonOf(manager->Barrier()), reason::kServiceManagerFailed);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kServiceManagerTimeout);
  EXPECT_TRUE(ServiceManager("", {}).Barrier().ok()) << "without a manager nothing is waited for";
}

TEST(ServiceManager, ASocketThatIsGoneIsAnErrorAndNotAHang) {
  const ServiceManager gone("/nowhere/notify", {});
  const absl::Status status = gone.Notify("READY=1");
  EXPECT_EQ(ReasonOf(status), reason::kServiceManagerFailed);
  EXPECT_NE(status.message().find("No such file"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace rehome
