// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "client/cli/progress.h"
#include "client/testing/sample_records.h"

namespace rehome {
namespace {

// As much of a terminal as the live view uses: a screen that is tall enough and does not wrap.
std::vector<std::string> ScreenAfter(const std::string& written) {
  std::vector<std::string> rows(1);
  size_t row = 0;
  for (size_t at = 0; at < written.size(); ++at) {
    if (written[at] == '\n') {
      if (++row == rows.size()) rows.emplace_back();
    } else if (written[at] == '\x1b') {
      size_t end = at + 2;
      while (!std::isalpha(static_cast<unsigned char>(written[end]))) ++end;
      const std::string argument = written.substr(at + 2, end - at - 2);
      if (written[end] == 'A') row -= std::stoul(argument);
      if (written[end] == 'K') rows[row].clear();
      if (written[end] == 'J') {
        rows.resize(row + 1);
        rows[row].clear();
      }
      at = end;
    } else if (written[at] != '\r') {
      rows[row] += written[at];
    }
  }
  return rows;
}

class LiveProgressTest : public ::testing::Test {
 protected:
  std::ostringstream out_;
  std::ostringstream err_;
  const Console console_{.out = out_, .err = err_, .err_is_terminal = true};
};

TEST_F(LiveProgressTest, RewritesItsLinesInPlace) {
  const auto progress = NewLiveProgress(console_);
  for (const v1::Migration& migration : testing::SampleHistory()) progress->Update(migration);
  progress->Finish();
  const std::vector<std::string> screen = ScreenAfter(err_.str());
  ASSERT_EQ(screen.size(), 9u);
  EXPECT_TRUE(screen[0].starts_with("web-1 to profile vmm-2  m-0123456789abcdef  "));
  EXPECT_EQ(screen[1], "");
  EXPECT_EQ(screen[2], "  ok Preconditions     3 checks passed; strategy MAP, fence before resume");
  EXPECT_EQ(screen[3], "  ok Target VMM        rehome-vmm 2.0, pid 4321");
  EXPECT_EQ(screen[4],
            "  ok Memory and state  512 MiB stay in place, 2 vCPUs, layout 00c0ffee00c0ffee");
  EXPECT_EQ(screen[5], "  ok Hand-over         guest paused for 312.4 us");
  EXPECT_EQ(screen[6],
            "  ok Fence             pid 1234 gone after 3.100 ms, 1 memory file checked, no other "
            "holder");
  EXPECT_EQ(screen[7], "");
  EXPECT_EQ(screen[8], "");
  EXPECT_EQ(out_.str(), "") << "the result is somebody else's to write";
}

TEST_F(LiveProgressTest, SaysWhoRunsTheGuestMeanwhile) {
  const auto progress = NewLiveProgress(console_);
  const std::vector<v1::Migration> history = testing::SampleHistory();
  progress->Update(history[3]);
  EXPECT_NE(err_.str().find("The guest runs on the source: rehome-vmm 1.0, pid 1234"),
            std::string::npos);
  progress->Update(history[4]);
  EXPECT_NE(err_.str().find("The guest is being handed over"), std::string::npos);
  progress->Update(history[5]);
  EXPECT_NE(err_.str().find("The guest runs on the target: rehome-vmm 2.0, pid 4321"),
            std::string::npos);
}

TEST_F(LiveProgressTest, WritesNothingAfterTheEnd) {
  const auto progress = NewLiveProgress(console_);
  progress->Update(testing::SampleHistory()[0]);
  progress->Finish();
  const std::string before = err_.str();
  progress->Update(testing::SampleHistory()[1]);
  progress->Note("too late");
  progress->Finish();
  EXPECT_EQ(err_.str(), before);
}

TEST_F(LiveProgressTest, WritesNothingWithoutAMigration) {
  NewLiveProgress(console_)->Finish();
  EXPECT_EQ(err_.str(), "");
}

}  // namespace
}  // namespace rehome
