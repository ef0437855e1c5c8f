// SPDX-License-Identifier: Apache-2.0
#include "bench/freezer.h"

#include <gtest/gtest.h>

namespace rehome::bench {
namespace {

TEST(FreezerTest, FindsCgroup2BesideTheOldHierarchies) {
  EXPECT_EQ(Cgroup2Mount("proc /proc proc rw 0 0\n"
                         "cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n"
                         "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"),
            "/sys/fs/cgroup/unified");
}

TEST(FreezerTest, FindsNoneWhereThereIsNone) {
  EXPECT_EQ(Cgroup2Mount(""), std::nullopt);
  EXPECT_EQ(Cgroup2Mount("cgroup2 /mnt tmpfs rw 0 0\nodd"), std::nullopt);
}

}  // namespace
}  // namespace rehome::bench
