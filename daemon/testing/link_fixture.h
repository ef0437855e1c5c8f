// SPDX-License-Identifier: Apache-2.0
//
// A SocketVmmLink to a FakeAgent, and its calls.
#ifndef REHOME_DAEMON_TESTING_LINK_FIXTURE_H_
#define REHOME_DAEMON_TESTING_LINK_FIXTURE_H_

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/testing/agent_fixture.h"
#include "gtest/gtest.h"

namespace rehome::testing_support {

class LinkFixture : public AgentFixture {
 protected:
  void SetUp() override {
    AgentFixture::SetUp();
    StartServer();
    fds_without_link_ = CountOpenFds();
    link_ = AdoptTarget(&agent_);
    ASSERT_NE(link_, nullptr);
  }
  void TearDown() override {
    link_.reset();
    AgentFixture::TearDown();
  }
  template <typename Call>
  auto Async(Call call) {
    return std::async(std::launch::async, call);
  }
  std::future<absl::StatusOr<VmDescription>> DescribeAsync(
      std::chrono::milliseconds timeout = kPatience, Interrupt* interrupt = nullptr) {
    return Async([=, this] { return link_->Describe("m-1", true, timeout, interrupt); });
  }
  // Every call of the interface, by name, with `timeout`.
  std::vector<std::pair<std::string, std::function<absl::Status()>>> AllCalls(
      std::chrono::milliseconds timeout) {
    return {
        {"Describe",
         [=, this] { return link_->Describe("m-1", false, timeout, nullptr).status(); }},
        {"Prepare",
         [=, this] {
           return link_
               ->Prepare({.migration_id = "m-1",
                          .strategy = Strategy::kMap,
                          .fence_policy = FencePolicy::kBeforeResume,
                          .source = &source_,
                          .block = block_.borrow()},
                         timeout, nullptr)
               .status();
         }},
        {"ArmTarget",
         [=, this] { return link_->ArmTarget("m-1", block_.borrow(), timeout, nullptr); }},
        {"ArmSource",
         [=, this] {
           return link_->ArmSource({.migration_id = "m-1",
                                    .layout_digest = 1,
                                    .state_format = 2,
                                    .block = block_.borrow(),
                                    .target_pidfd = block_.borrow()},
                                   timeout, nullptr);
         }},
        {"Start", [=, this] { return link_->Start("m-1", timeout); }},
        {"Cancel", [=, this] { return link_->Cancel("m-1", timeout); }},
        {"Release", [=, this] { return link_->Release("m-1", timeout); }},
        {"ProbeVm", [=, this] { return link_->ProbeVm("m-1", timeout).status(); }},
        {"HandIn", [=, this] { return link_->HandIn("m-1", timeout).status(); }},
    };
  }

  size_t fds_without_link_ = 0;
  FakeAgent agent_;
  std::shared_ptr<VmmLink> link_;
  VmDescription source_ = [] {
    VmDescription vm;
    vm.vm_id = "vm-1";
    return vm;
  }();
  UniqueFd block_ = MakeMemfd();
};

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_LINK_FIXTURE_H_
