// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/service_manager.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"

namespace rehome::harness {
namespace {

constexpr std::chrono::milliseconds kBound{30'000};

// Services in a few lines of Python: what libsystemd does, without it.
constexpr char kStore[] = R"(
import array, os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
for name in sys.argv[1:]:
    fd = os.memfd_create(name)
    os.write(fd, name.encode())
    s.sendmsg([f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode()],
              [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
)";
constexpr char kShow[] = R"(
import os
assert int(os.environ["LISTEN_PID"]) == os.getpid()
for i, name in enumerate(os.environ["LISTEN_FDNAMES"].split(":")):
    print(name, os.pread(3 + i, 100, 0).decode())
assert int(os.environ["LISTEN_FDS"]) == i + 1
)";
constexpr char kRemove[] = R"(
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(f"FDSTOREREMOVE=1\nFDNAME={sys.argv[1]}".encode())
)";

class ServiceManagerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto manager = ServiceManager::Open();
    ASSERT_TRUE(manager.ok()) << manager.status();
    manager_ = *std::move(manager);
  }
  // Runs a service to its end; what it printed.
  std::string Run(const char* program, const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {"/usr/bin/python3", "-c", program};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    const std::string log = directory_.File(std::to_string(++runs_));
    auto process = manager_->Start({.argv = argv, .log_path = log});
    EXPECT_TRUE(process.ok()) << process.status();
    const auto status = process->WaitExit(kBound);
    std::ifstream file(log);
    std::string text(std::istreambuf_iterator<char>(file), {});
    EXPECT_TRUE(status.ok() && WIFEXITED(*status) && WEXITSTATUS(*status) == 0) << text;
    return text;
  }

  TempDir directory_;
  int runs_ = 0;
  std::unique_ptr<ServiceManager> manager_;
};

TEST_F(ServiceManagerTest, WhatAServiceStoresComesBackToTheNextByName) {
  Run(kStore, {"m-1.block", "m-1.memory-0"});
  EXPECT_EQ(Run(kShow, {}), "m-1.block m-1.block\nm-1.memory-0 m-1.memory-0\n");
  // The manager keeps its own.
  EXPECT_EQ(manager_->stored(), (std::vector<std::string>{"m-1.block", "m-1.memory-0"}));
}

TEST_F(ServiceManagerTest, WhatIsRemovedIsGone) {
  Run(kStore, {"a", "b"});
  Run(kRemove, {"a"});
  EXPECT_EQ(Run(kShow, {}), "b b\n");
}

}  // namespace
}  // namespace rehome::harness
