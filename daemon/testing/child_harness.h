// SPDX-License-Identifier: Apache-2.0
//
// Starts testing/test_child.cc.
#ifndef REHOME_DAEMON_TESTING_CHILD_HARNESS_H_
#define REHOME_DAEMON_TESTING_CHILD_HARNESS_H_

#include <chrono>
#include <string>
#include <vector>

#include "daemon/migration.h"
#include "kvmglue/fd.h"

namespace rehome::testing_support {

// Beyond every wait that a loaded machine needs; only a failing test waits that long.
inline constexpr std::chrono::milliseconds kPatience{20'000};

struct TestChild {
  UniqueFd pidfd;
  UniqueFd channel;  // the child lives until this is closed
  ProcessIdentity process;
};

// Absolute path of a program in this test's runfiles, for example "daemon/test_child".
std::string RunfilePath(const std::string& path);

// Runs test_child with `arguments`; `memory`, if valid, is its fd 4. Returns when the child is
// ready. Fails the test (and returns what there is) if it does not get there.
TestChild StartTestChild(const std::vector<std::string>& arguments, BorrowedFd memory = {});

// Waits until the pidfd is readable.
bool AwaitReadable(BorrowedFd fd);

// Number of descriptors that this process has open.
size_t CountOpenFds();

// A memfd of `pages` pages, sealable.
UniqueFd MakeMemfd(size_t pages = 1);

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_CHILD_HARNESS_H_
