// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/agent_state.h"

#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace rehome {
namespace {

const std::vector<rehome_message> kRequests = {
    REHOME_MSG_DESCRIBE,   REHOME_MSG_PREPARE, REHOME_MSG_ARM_TARGET,
    REHOME_MSG_ARM_SOURCE, REHOME_MSG_START,   REHOME_MSG_CANCEL,
    REHOME_MSG_RELEASE,    REHOME_MSG_PROBE,   REHOME_MSG_HAND_IN};

std::vector<rehome_agent_state> EveryState() {
  std::vector<rehome_agent_state> states;
  for (int i = 0; i < REHOME_STATE_COUNT; i++) states.push_back(static_cast<rehome_agent_state>(i));
  return states;
}

// States that admit `type`, by name.
std::set<std::string> Admitting(rehome_message type) {
  std::set<std::string> names;
  for (rehome_agent_state state : EveryState()) {
    if (rehome_admit(state, type) == REHOME_REFUSED_NONE) names.insert(rehome_state_name(state));
  }
  return names;
}

using Names = std::set<std::string>;

TEST(AgentState, AdmitsEachRequestWhereItHasItsPlaceAndNowhereElse) {
  EXPECT_EQ(Admitting(REHOME_MSG_DESCRIBE), (Names{"IDLE", "HELD", "ARMED"}));
  EXPECT_EQ(Admitting(REHOME_MSG_PREPARE), (Names{"NEW"}));
  EXPECT_EQ(Admitting(REHOME_MSG_ARM_TARGET), (Names{"PREPARED"}));
  EXPECT_EQ(Admitting(REHOME_MSG_ARM_SOURCE), (Names{"HELD"}));
  EXPECT_EQ(Admitting(REHOME_MSG_START), (Names{"ARMED"}));
  EXPECT_EQ(Admitting(REHOME_MSG_RELEASE), (Names{"STRANDED", "HANDED_OVER"}));
  EXPECT_EQ(Admitting(REHOME_MSG_CANCEL),
            (Names{"IDLE", "HELD", "ARMED", "PAUSED", "NEW", "PREPARED", "TAKE_OVER", "OFF"}));
  EXPECT_EQ(Admitting(REHOME_MSG_HAND_IN),
            (Names{"ARMED", "PAUSED", "STRANDED", "HANDED_OVER", "TAKE_OVER"}));
}

TEST(AgentState, HasNothingToHandInWithoutABlock) {
  for (rehome_agent_state state : EveryState()) {
    uint32_t refusal = rehome_admit(state, REHOME_MSG_HAND_IN);
    if (refusal != REHOME_REFUSED_NONE) {
      EXPECT_EQ(refusal, static_cast<uint32_t>(REHOME_REFUSED_WRONG_MIGRATION));
    }
  }
}

TEST(AgentState, AnswersAProbeAlways) {
  EXPECT_EQ(Admitting(REHOME_MSG_PROBE).size(), static_cast<size_t>(REHOME_STATE_COUNT));
}

TEST(AgentState, TellsEachEndThatTheOthersRequestsAreNotForIt) {
  for (rehome_agent_state state : EveryState()) {
    bool target = state >= REHOME_STATE_NEW;
    for (rehome_message type : {REHOME_MSG_PREPARE, REHOME_MSG_ARM_TARGET}) {
      EXPECT_EQ(rehome_admit(state, type) == REHOME_REFUSED_UNSUPPORTED, !target);
    }
    for (rehome_message type :
         {REHOME_MSG_DESCRIBE, REHOME_MSG_ARM_SOURCE, REHOME_MSG_START, REHOME_MSG_RELEASE}) {
      EXPECT_EQ(rehome_admit(state, type) == REHOME_REFUSED_UNSUPPORTED, target);
    }
  }
}

TEST(AgentState, CallsTheAgentsOwnMessagesMalformed) {
  for (rehome_agent_state state : EveryState()) {
    for (rehome_message type : {REHOME_MSG_HELLO, REHOME_MSG_REGISTER, REHOME_MSG_EVENT}) {
      EXPECT_EQ(rehome_admit(state, type), REHOME_REFUSED_MALFORMED);
    }
    EXPECT_EQ(rehome_admit(state, static_cast<rehome_message>(999)), REHOME_REFUSED_MALFORMED);
  }
}

TEST(AgentState, RefusesEverythingElseWithAKnownReason) {
  for (rehome_agent_state state : EveryState()) {
    for (rehome_message type : kRequests) {
      EXPECT_LE(rehome_admit(state, type), static_cast<uint32_t>(REHOME_REFUSED_WRONG_MIGRATION));
    }
    EXPECT_STRNE(rehome_state_name(state), "?");
  }
}

}  // namespace
}  // namespace rehome
