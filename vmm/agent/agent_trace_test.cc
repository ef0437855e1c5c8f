// SPDX-License-Identifier: Apache-2.0
//
// TRACE: an offer without an answer.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/agent_fixture.h"

namespace rehome {
namespace {

struct Offer {
  std::string migration_id = "m-1";
  uint32_t features = REHOME_FEATURES_ALL;
  bool is_area = true;
};

// What rehome_trace_wanted() says after DESCRIBE and that offer.
class TraceOffer : public AgentFixture {
 protected:
  bool Accepted(const Offer& offer) {
    StartAt(daemon_.path());
    link_ = daemon_.Accept();
    EXPECT_TRUE(link_.AnswerHello(REHOME_REFUSED_NONE, offer.features));
    EXPECT_EQ(link_.Describe("m-1", true, &described_), 0u);
    EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), 0u);
    const int fds = CountFds();
    SendOffer(offer);
    // Handled in order, so that this answer says that the offer has been looked at.
    EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), 0u);
    EXPECT_EQ(CountFds(), fds);
    return rehome_trace_wanted(trace_) != 0;
  }

  void SendOffer(const Offer& offer) {
    const int area = offer.is_area ? rehome_trace_create_area() : dup(STDIN_FILENO);
    rehome_packet packet;
    rehome_packet_init(&packet, REHOME_MSG_TRACE, 0, 1);
    rehome_migration_ref reference = {};
    rehome_copy_text(reference.migration_id, sizeof(reference.migration_id),
                     offer.migration_id.c_str());
    rehome_packet_append(&packet, &reference, sizeof(reference));
    packet.header.fd_count = 1;
    std::vector<uint8_t> bytes(sizeof(packet.header) + sizeof(reference));
    memcpy(bytes.data(), &packet.header, sizeof(packet.header));
    memcpy(bytes.data() + sizeof(packet.header), packet.payload, sizeof(reference));
    EXPECT_TRUE(link_.SendRaw(bytes, {area}));
    close(area);
  }

  FakeLink link_;
};

TEST_F(TraceOffer, IsTakenFromDescribeOnAndUsedFromThePauseToTheResume) {
  ArmedBlock block("m-1");
  ASSERT_TRUE(Accepted({}));
  ASSERT_EQ(link_.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  ASSERT_EQ(link_.Order(REHOME_MSG_START, "m-1"), 0u);
  ASSERT_TRUE(vmm_.Await(&CountingVmm::paused, 1));
  EXPECT_TRUE(rehome_trace_wanted(trace_));
  EXPECT_EQ(link_.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_TRUE(link_.AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), 0u);
  EXPECT_FALSE(rehome_trace_wanted(trace_));
}

TEST_F(TraceOffer, OfAnotherMigrationIsPassedOver) {
  EXPECT_FALSE(Accepted({.migration_id = "m-2"}));
}

TEST_F(TraceOffer, ThatWasNotAgreedOnIsPassedOver) {
  EXPECT_FALSE(Accepted({.features = REHOME_FEATURES_ALL & ~REHOME_FEATURE_TRACE}));
}

TEST_F(TraceOffer, OfSomethingElseIsPassedOver) { EXPECT_FALSE(Accepted({.is_area = false})); }

TEST_F(TraceOffer, TooLateIsPassedOver) {
  ArmedBlock block("m-1");
  StartAt(daemon_.path());
  link_ = daemon_.Accept();
  ASSERT_TRUE(link_.AnswerHello());
  ASSERT_EQ(link_.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link_.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  SendOffer({});
  EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), 0u);
  EXPECT_FALSE(rehome_trace_wanted(trace_));
}

}  // namespace
}  // namespace rehome
