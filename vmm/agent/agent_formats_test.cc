// SPDX-License-Identifier: Apache-2.0
//
// A source that can write several state formats, and daemons that choose, that cannot, and that
// choose what was not offered.
#include <string.h>

#include <optional>
#include <span>

#include "gtest/gtest.h"
#include "vmm/agent/agent_fixture.h"

namespace rehome {
namespace {

constexpr uint32_t kWithoutFormats = REHOME_FEATURES_ALL & ~REHOME_FEATURE_FORMATS;

class AgentFormats : public AgentFixture {
 protected:
  FakeLink Connect(uint32_t features = REHOME_FEATURES_ALL) {
    StartAt(daemon_.path());
    FakeLink link = daemon_.Accept();
    EXPECT_TRUE(link.AnswerHello(REHOME_REFUSED_NONE, features));
    return link;
  }
  std::optional<uint32_t> Arm(FakeLink& link, std::optional<uint32_t> format) {
    return link.ArmSource("m-1", 5, block_.fd(), block_.self(), format);
  }

  ArmedBlock block_{"m-1"};
};

TEST_F(AgentFormats, OffersWhatItsVmmCanWriteAndPassesTheChoiceOn) {
  for (uint32_t format = kOldestFormat; format <= kNewestFormat; format++) {
    FakeLink link = Connect();
    ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
    EXPECT_EQ(described_.state_format, kNewestFormat);
    EXPECT_EQ(described_.state_format_oldest, kOldestFormat);
    EXPECT_EQ(Arm(link, format), 0u);
    EXPECT_EQ(vmm_.armed_format.load(), format);
    rehome_agent_stop(agent_);
    agent_ = nullptr;
  }
}

TEST_F(AgentFormats, RefusesAFormatThatItsVmmDidNotOfferAndCanStillBeArmed) {
  FakeLink link = Connect();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  for (uint32_t format : {0u, kOldestFormat - 1, kNewestFormat + 1, UINT32_MAX}) {
    EXPECT_EQ(Arm(link, format), REHOME_REFUSED_STATE_FORMAT) << format;
    EXPECT_NE(link.refusal_text().find("test 1 offered 3 to 5"), std::string::npos)
        << link.refusal_text();
  }
  EXPECT_EQ(vmm_.Read(&CountingVmm::armed), 0);
  EXPECT_EQ(Arm(link, kOldestFormat), 0u);
  EXPECT_EQ(vmm_.armed_format.load(), kOldestFormat);
}

TEST_F(AgentFormats, WritesTheNewestForADaemonThatCannotChoose) {
  FakeLink link = Connect(kWithoutFormats);
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(described_.state_format, kNewestFormat);
  EXPECT_EQ(described_.state_format_oldest, 0u) << "what it does not know must be 0";
  EXPECT_EQ(Arm(link, std::nullopt), 0u);
  EXPECT_EQ(vmm_.armed_format.load(), kNewestFormat);
}

std::span<const uint8_t> BytesOf(const rehome_arm_source& request, size_t size) {
  return {reinterpret_cast<const uint8_t*>(&request), size};
}

TEST_F(AgentFormats, TakesTheFormOfArmSourceThatWasAgreedOnAndNoOther) {
  rehome_arm_source request = {};
  strcpy(request.arm.migration_id, "m-1");
  request.state_format = kNewestFormat;
  for (uint32_t features : {static_cast<uint32_t>(REHOME_FEATURES_ALL), kWithoutFormats}) {
    const bool agreed = features != kWithoutFormats;
    FakeLink link = Connect(features);
    ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
    const size_t wrong = agreed ? sizeof(rehome_arm) : sizeof(rehome_arm_source);
    EXPECT_EQ(
        link.Request(REHOME_MSG_ARM_SOURCE, BytesOf(request, wrong), {block_.fd(), block_.self()}),
        REHOME_REFUSED_MALFORMED);
    rehome_agent_stop(agent_);
    agent_ = nullptr;
  }
  FakeLink link = Connect();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  request.reserved = 1;
  EXPECT_EQ(link.Request(REHOME_MSG_ARM_SOURCE, BytesOf(request, sizeof(request)),
                         {block_.fd(), block_.self()}),
            std::nullopt)
      << "a violation ends the connection";
}

// Whoever reads the state later must know what it is in, and not what it could have been in.
TEST_F(AgentFormats, HandsInTheFormatThatItWasToldToWrite) {
  FakeLink link = Connect();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(Arm(link, kOldestFormat), 0u);
  ASSERT_EQ(link.HandIn("m-1", &described_), 0u);
  EXPECT_EQ(described_.state_format, kOldestFormat);
  EXPECT_EQ(described_.state_format_oldest, 0u);
}

TEST_F(AgentFormats, AVmmThatCannotBeToldMustNotOfferAChoice) {
  ops_.arm_source = nullptr;
  FakeLink link = Connect();
  EXPECT_EQ(link.Describe("m-1", true, &described_), REHOME_REFUSED_INTERNAL);
  EXPECT_NE(link.refusal_text().find("arm_source"), std::string::npos) << link.refusal_text();
}

}  // namespace
}  // namespace rehome
