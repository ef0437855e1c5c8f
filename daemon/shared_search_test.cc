// SPDX-License-Identifier: Apache-2.0
#include "daemon/shared_search.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// Answers with what it was asked, and counts.
class SharedSearchTest : public ::testing::Test {
 protected:
  SharedSearchTest()
      : shared_([this](const std::vector<HolderQuery>& queries) { return Search(queries); }) {}

  absl::StatusOr<std::vector<HolderSearch>> Search(const std::vector<HolderQuery>& queries) {
    const size_t number = sizes_.size();
    sizes_.push_back(queries.size());
    if (number == 0 && hold_first_) {
      first_began_.count_down();
      release_first_.wait();
    }
    if (fail_) {
      return MakeStatus(absl::StatusCode::kUnknown, reason::kHoldersUnreadable, "no");
    }
    std::vector<HolderSearch> answers;
    for (const HolderQuery& query : queries) {
      HolderSearch answer;
      answer.begun_ns = number + 1;
      for (const InodeId& inode : query.inodes) answer.memory.push_back({.inode = inode});
      answers.push_back(std::move(answer));
    }
    return answers;
  }

  bool hold_first_ = false;
  bool fail_ = false;
  std::latch first_began_{1}, release_first_{1};
  std::vector<size_t> sizes_;  // of the searches so far; one at a time, so no lock
  SharedSearch shared_;
};

TEST_F(SharedSearchTest, EachAloneGetsItsOwn) {
  for (uint64_t inode : {7, 8}) {
    const auto found = shared_.Find({.inodes = {{1, inode}}});
    ASSERT_TRUE(found.ok());
    ASSERT_EQ(found->memory.size(), 1u);
    EXPECT_EQ(found->memory[0].inode.inode, inode);
  }
  EXPECT_EQ(sizes_, (std::vector<size_t>{1, 1}));
}

TEST_F(SharedSearchTest, WhoComesDuringASearchSharesTheNextAndNeverThatOne) {
  constexpr int kLate = 5;
  hold_first_ = true;
  std::thread first([this] { EXPECT_EQ(shared_.Find({.inodes = {{1, 100}}})->begun_ns, 1u); });
  first_began_.wait();
  std::vector<std::thread> late;
  std::atomic<int> asked = 0;
  for (uint64_t i = 0; i < kLate; ++i) {
    late.emplace_back([this, i, &asked] {
      ++asked;
      const auto found = shared_.Find({.inodes = {{1, i}}});
      ASSERT_TRUE(found.ok());
      EXPECT_GT(found->begun_ns, 1u) << "a search that had begun before it was asked";
      ASSERT_EQ(found->memory.size(), 1u);
      EXPECT_EQ(found->memory[0].inode.inode, i) << "somebody else's answer";
    });
  }
  while (asked < kLate) std::this_thread::yield();
  release_first_.count_down();
  first.join();
  for (std::thread& thread : late) thread.join();
  size_t served = 0;
  for (const size_t size : sizes_) served += size;
  EXPECT_EQ(served, 1u + kLate) << "each once";
}

TEST_F(SharedSearchTest, RestsAsLongAsItTook) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kTakes{5};
  std::vector<std::pair<Clock::time_point, Clock::time_point>> searches;
  SharedSearch shared([&](const std::vector<HolderQuery>& queries) {
    const auto begun = Clock::now();
    while (Clock::now() < begun + kTakes) std::this_thread::yield();
    searches.emplace_back(begun, Clock::now());
    return std::vector<HolderSearch>(queries.size());
  });
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(shared.Find({}).ok());
  for (size_t i = 1; i < searches.size(); ++i) {
    EXPECT_GE(searches[i].first - searches[i - 1].second, kTakes);
  }
}

TEST_F(SharedSearchTest, AFailureIsEverybodysAndTheNextSearchIsAnother) {
  fail_ = true;
  EXPECT_EQ(ReasonOf(shared_.Find({.inodes = {{1, 1}}}).status()), reason::kHoldersUnreadable);
  fail_ = false;
  EXPECT_TRUE(shared_.Find({.inodes = {{1, 1}}}).ok());
}

}  // namespace
}  // namespace rehome
