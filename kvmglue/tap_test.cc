// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/tap.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/test_tap.h"

namespace rehome {
namespace {

TEST(TapTest, NamesThatCannotBeAreRefused) {
  for (const std::string& name :
       {std::string(), std::string("sixteen-bytes-xx"), std::string("a\0b", 3)}) {
    EXPECT_EQ(ReasonOf(OpenTap(name).status()), "TAP_NAME_INVALID") << name;
  }
}

std::string NameForTest() { return absl::StrCat("rht", getpid() % 1'000'000); }

TEST(TapTest, OneThatDoesNotExistIsNotMade) {
  const std::string name = NameForTest();
  ASSERT_EQ(if_nametoindex(name.c_str()), 0u);
  const absl::StatusOr<UniqueFd> tap = OpenTap(name);
  EXPECT_EQ(tap.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(tap.status()), "TAP_NOT_FOUND") << tap.status();
  EXPECT_NE(tap.status().message().find(name), std::string::npos) << tap.status();
  EXPECT_EQ(if_nametoindex(name.c_str()), 0u);
}

TEST(TapTest, AnotherKindOfInterfaceIsNone) {
  const absl::Status status = OpenTap("lo").status();
  EXPECT_TRUE(ReasonOf(status) == "TAP_UNSUPPORTED" || ReasonOf(status) == "TAP_DENIED") << status;
}

TEST(TapTest, HasOneUser) {
  const absl::StatusOr<std::unique_ptr<testing::TestTap>> made =
      testing::TestTap::Make(NameForTest());
  if (!made.ok()) GTEST_SKIP() << made.status();
  const std::string& name = (*made)->name();
  const absl::StatusOr<UniqueFd> tap = OpenTap(name);
  ASSERT_TRUE(tap.ok()) << tap.status();
  EXPECT_EQ(fcntl(tap->borrow().raw(), F_GETFD), FD_CLOEXEC);
  EXPECT_NE(fcntl(tap->borrow().raw(), F_GETFL) & O_NONBLOCK, 0);
  const absl::Status second = OpenTap(name).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(second), "TAP_BUSY") << second;
}

}  // namespace
}  // namespace rehome
