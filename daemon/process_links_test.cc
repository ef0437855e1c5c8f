// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_links.h"

#include <gtest/gtest.h>

#include <future>

#include "daemon/reasons.h"
#include "daemon/testing/fake_vmm_link.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPatience{20'000};
constexpr ProcessIdentity kProcess{10, 100, 1000};

std::shared_ptr<FakeVmmLink> Link(const ProcessIdentity& process = kProcess) {
  return std::make_shared<FakeVmmLink>(process);
}

class ProcessLinksTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<VmmLink>> Look(const ProcessIdentity& process = kProcess) {
    return links_.Await(process, steady_clock::now(), nullptr);
  }
  ProcessLinks links_;
};

TEST_F(ProcessLinksTest, OnlyTheVeryProcessIsFoundNotOneThatLooksLikeIt) {
  for (const ProcessIdentity& other :
       {ProcessIdentity{11, 100, 1000}, {10, 101, 1000}, {10, 100, 1001}, {10, 100, 0}}) {
    links_.Add(Link(other), false);
  }
  EXPECT_EQ(ReasonOf(Look().status()), reason::kAgentTimeout);
  auto link = Link();
  links_.Add(link, false);
  EXPECT_EQ(*Look(), link);
}

TEST_F(ProcessLinksTest, TheNewestLivingConnectionIsTheOne) {
  auto first = Link(), second = Link(), third = Link();
  for (const auto& link : {first, second, third}) links_.Add(link, false);
  third->Close();
  EXPECT_EQ(*Look(), second);
  links_.Remove(second.get());
  EXPECT_EQ(*Look(), first);
  links_.Remove(first.get());
  EXPECT_FALSE(Look().ok());
}

TEST_F(ProcessLinksTest, WhatIsGivenOutIsClaimedAndNothingElse) {
  auto first = Link(), second = Link(), launched = Link();
  links_.Add(first, false);
  links_.Add(second, false);
  ASSERT_TRUE(Look().ok());
  EXPECT_TRUE(links_.IsClaimed(second.get()));
  EXPECT_FALSE(links_.IsClaimed(first.get()));
  EXPECT_FALSE(links_.IsClaimed(launched.get())) << "not here";
  links_.Add(launched, true);
  EXPECT_TRUE(links_.IsClaimed(launched.get()));
}

TEST_F(ProcessLinksTest, AWaiterIsWokenByTheProcessThatItWaitsFor) {
  auto found = std::async(std::launch::async, [&] {
    return links_.Await(kProcess, steady_clock::now() + kPatience, nullptr);
  });
  links_.Add(Link({11, 1, 1}), false);
  auto link = Link();
  links_.Add(link, false);
  EXPECT_EQ(*found.get(), link);
}

TEST_F(ProcessLinksTest, AnInterruptEndsTheWait) {
  std::unique_ptr<Interrupt> interrupt = *Interrupt::Create();
  auto found = std::async(std::launch::async, [&] {
    return links_.Await(kProcess, steady_clock::now() + kPatience, interrupt.get());
  });
  interrupt->Raise();
  EXPECT_EQ(ReasonOf(found.get().status()), reason::kInterrupted);
}

}  // namespace
}  // namespace rehome
