// SPDX-License-Identifier: Apache-2.0
#include "daemon/thread.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

TEST(ThreadTest, RunsItsBody) {
  std::atomic<bool> ran = false;
  auto thread = StartThread([&] { ran = true; });
  ASSERT_TRUE(thread.ok()) << thread.status();
  thread->join();
  EXPECT_TRUE(ran);
}

// In a child, because the limit cannot be taken back. It does not hold for root.
TEST(ThreadTest, AHostWithoutRoomForAThreadIsAnErrorNotAnException) {
  constexpr uid_t kNobody = 65534;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(2);
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(3);
    const auto thread = StartThread([] {});
    _exit(ReasonOf(thread.status()) == reason::kThreadLimit ? 0 : 1);
  }
  int how = 0;
  ASSERT_EQ(waitpid(child, &how, 0), child);
  ASSERT_TRUE(WIFEXITED(how));
  EXPECT_EQ(WEXITSTATUS(how), 0);
}

}  // namespace
}  // namespace rehome
