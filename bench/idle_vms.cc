// SPDX-License-Identifier: Apache-2.0
#include "bench/idle_vms.h"

#include <chrono>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace rehome::bench {
namespace {

// A daemon that is busy answers within milliseconds; a machine that is, in seconds.
constexpr std::chrono::milliseconds kAgentTimeout{60'000};

}  // namespace

absl::Status IdleVms::GrowTo(const std::string& agent_socket, int count) {
  while (static_cast<int>(agents_.size()) < count) {
    absl::StatusOr<harness::FakeAgent> agent = harness::FakeAgent::Connect(agent_socket);
    if (!agent.ok()) return agent.status();
    const absl::Status registered =
        agent->Register(absl::StrCat("vm-", agents_.size()), kAgentTimeout);
    if (!registered.ok()) return registered;
    agents_.push_back(*std::move(agent));
  }
  return absl::OkStatus();
}

}  // namespace rehome::bench
