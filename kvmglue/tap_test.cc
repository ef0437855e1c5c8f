// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/tap.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

TEST(TapTest, NamesThatCannotBeAreRefused) {
  for (const std::string& name :
       {std::string(), std::string("sixteen-bytes-xx"), std::string("a\0b", 3)}) {
    EXPECT_EQ(ReasonOf(OpenTap(name).status()), "TAP_NAME_INVALID") << name;
  }
}

TEST(TapTest, HasOneUser) {
  const std::string name = absl::StrCat("rht", getpid() % 1'000'000);
  const absl::StatusOr<UniqueFd> tap = OpenTap(name);
  if (!tap.ok()) {
    // Not ours to be had here; then at least it says so in the words that were promised.
    EXPECT_TRUE(ReasonOf(tap.status()) == "TAP_UNSUPPORTED" ||
                ReasonOf(tap.status()) == "TAP_DENIED")
        << tap.status();
    GTEST_SKIP() << tap.status();
  }
  EXPECT_EQ(fcntl(tap->borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_NE(fcntl(tap->borrow().raw(), F_GETFL) & O_NONBLOCK, 0);
  const absl::Status second = OpenTap(name).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(second), "TAP_BUSY") << second;
}

}  // namespace
}  // namespace rehome
