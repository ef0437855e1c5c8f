// SPDX-License-Identifier: Apache-2.0
//
// Requests out of place, with the wrong things, or of a VMM that cannot.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <semaphore>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/agent_fixture.h"

namespace rehome {
namespace {

class Agent : public AgentFixture {};

TEST_F(Agent, HoldsForOneMigrationAtATime) {
  FakeLink link = StartRegistered();
  EXPECT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.Describe("m-2", true, &described_), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link.Describe("m-2", false, &described_), 0u);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-2"), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 0);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 1);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);  // again: nothing is under way
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 1);
  EXPECT_EQ(link.Describe("m-2", true, &described_), 0u);
}

TEST_F(Agent, ForgetsAMigrationWhoseDaemonIsGone) {
  FakeLink link = StartRegistered();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  link.Close();
  EXPECT_TRUE(vmm_.Await(&CountingVmm::cancelled, 1));
  link = AcceptRegistered();
  EXPECT_EQ(link.Describe("m-2", true, &described_), 0u);
}

TEST_F(Agent, PassesOnWhyTheVmmRefuses) {
  FakeLink link = StartRegistered();
  vmm_.Count(&CountingVmm::refuse_describe);
  EXPECT_EQ(link.Describe("m-1", true, &described_), REHOME_REFUSED_RESOURCES);
  EXPECT_EQ(link.refusal_text(), "not now");
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 0);  // it holds nothing
}

TEST_F(Agent, DoesNotSendADescriptionThatNobodyWouldAccept) {
  FakeLink link = StartRegistered();
  for (int kind = 1; kind <= 4; kind++) {
    vmm_.Count(&CountingVmm::bad_description);
    std::optional<uint32_t> status = link.Describe("m-1", true, &described_);
    EXPECT_EQ(status, kind == 2 ? REHOME_REFUSED_KERNEL : REHOME_REFUSED_INTERNAL) << kind;
    EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), kind);  // let go of what describe() held
  }
}

TEST_F(Agent, RefusesToArmWithTheWrongThings) {
  FakeLink link = StartRegistered();
  ArmedBlock good("m-1"), other("m-2");
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  rehome_packet_close_fds(&link.answer());
  int fds = CountFds();
  EXPECT_EQ(link.ArmSource("m-1", 5, vmm_.memory, good.self()), REHOME_REFUSED_MALFORMED);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.self(), good.fd()), REHOME_REFUSED_MALFORMED);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.fd(), vmm_.memory), REHOME_REFUSED_MALFORMED);
  EXPECT_EQ(link.ArmSource("m-1", 5, other.fd(), good.self()), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(link.ArmSource("m-2", 5, other.fd(), good.self()), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(link.Order(REHOME_MSG_START, "m-1"), REHOME_REFUSED_MALFORMED);
  EXPECT_EQ(CountFds(), fds);
  EXPECT_EQ(vmm_.Read(&CountingVmm::armed), 0);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.fd(), good.self()), 0u);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.fd(), good.self()), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link.Order(REHOME_MSG_START, "m-2"), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(vmm_.Read(&CountingVmm::paused), 0);
}

TEST_F(Agent, LeavesNothingOpenAfterARoundThatWasAborted) {
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1");
  rehome_block mapped;
  ASSERT_EQ(rehome_block_map(block.fd(), &mapped), 0);
  ASSERT_EQ(link.Describe("m-1", false, &described_), 0u);
  rehome_packet_close_fds(&link.answer());
  int fds = CountFds();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  ASSERT_EQ(link.Order(REHOME_MSG_START, "m-1"), 0u);
  ASSERT_TRUE(vmm_.Await(&CountingVmm::paused, 1));
  EXPECT_EQ(link.Describe("m-9", false, &described_), REHOME_REFUSED_BUSY);  // in the blackout
  EXPECT_EQ(link.HandIn("m-1", &described_), 0u);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_TRUE(link.AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(vmm_.Read(&CountingVmm::resumed), 1);
  EXPECT_EQ(rehome_block_verdict(&mapped), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  EXPECT_EQ(link.Order(REHOME_MSG_PROBE, "m-1"), 0u);  // the thread is past its clean-up
  EXPECT_EQ(CountFds(), fds);
  rehome_block_unmap(&mapped);
}

TEST_F(Agent, HandsInOnlyWhereThatWasAgreedOn) {
  StartAt(daemon_.path());
  FakeLink link = daemon_.Accept();
  ASSERT_TRUE(link.AnswerHello(REHOME_REFUSED_NONE, REHOME_FEATURES_ALL & ~REHOME_FEATURE_RECOVER));
  ArmedBlock block("m-1");
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  EXPECT_EQ(link.HandIn("m-1", &described_), REHOME_REFUSED_UNSUPPORTED);
}

TEST_F(Agent, PassesOnWhyTheVmmCannotHandIn) {
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1");
  EXPECT_EQ(link.HandIn("m-1", &described_), REHOME_REFUSED_WRONG_MIGRATION);
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.HandIn("m-1", &described_), REHOME_REFUSED_WRONG_MIGRATION);
  ASSERT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  vmm_.Count(&CountingVmm::refuse_describe);
  EXPECT_EQ(link.HandIn("m-1", &described_), REHOME_REFUSED_RESOURCES);
  EXPECT_EQ(link.refusal_text(), "not now");
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 0);  // the hold of DESCRIBE goes on
  EXPECT_EQ(link.Order(REHOME_MSG_START, "m-1"), 0u);
}

TEST_F(Agent, StopsOnlyAfterThePausedGuestRunsAgain) {
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1");
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  ASSERT_EQ(link.Order(REHOME_MSG_START, "m-1"), 0u);
  ASSERT_TRUE(vmm_.Await(&CountingVmm::paused, 1));
  rehome_agent_stop(agent_);  // at the claim deadline, a second after the pause
  agent_ = nullptr;
  EXPECT_EQ(vmm_.Read(&CountingVmm::resumed), 1);
}

// A probe in which the target gets the guest, while another request is on its way already.
struct ProbeOfThePast {
  ProbeOfThePast() : block("m-1", REHOME_FENCE_AFTER_RESUME, REHOME_STRATEGY_MAP, kFarNs) {
    EXPECT_EQ(rehome_block_map(block.fd(), &mapped), 0);
  }
  ~ProbeOfThePast() { rehome_block_unmap(&mapped); }
  static constexpr uint64_t kFarNs = 60'000'000'000;

  ArmedBlock block;
  rehome_block mapped = {};
  std::binary_semaphore other_is_sent{0};
};
ProbeOfThePast* past = nullptr;

int ProbeWhileTheTargetTakesOver(void*) {
  if (!past->other_is_sent.try_acquire_for(std::chrono::milliseconds(kFakeDaemonTimeoutMs))) {
    return -ETIMEDOUT;
  }
  for (uint32_t to = REHOME_VERDICT_CLAIMED; to <= REHOME_VERDICT_RUNNING; to++) {
    if (rehome_block_move_verdict(&past->mapped, to - 1, to) != 0) return -EAGAIN;
  }
  return 0;
}

// A request about migration m-1, whose answer nobody reads.
std::vector<uint8_t> Message(rehome_message type) {
  rehome_header header = {};
  header.magic = REHOME_PROTOCOL_MAGIC;
  header.version = REHOME_PROTOCOL_VERSION;
  header.type = static_cast<uint16_t>(type);
  header.seq = 1;
  header.payload_size = sizeof(rehome_migration_ref);
  std::vector<uint8_t> message(sizeof(header) + sizeof(rehome_migration_ref));
  memcpy(message.data(), &header, sizeof(header));
  memcpy(message.data() + sizeof(header), "m-1", 3);
  return message;
}

// The daemon has heard of the target's first run before this thread came to look at the verdict.
TEST_F(Agent, IsReleasedByWhatTheBlockSaysNotByWhatItLastSaw) {
  ProbeOfThePast probe;
  past = &probe;
  ops_.probe_vm = ProbeWhileTheTargetTakesOver;
  FakeLink link = StartRegistered();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link.ArmSource("m-1", 5, probe.block.fd(), probe.block.self()), 0u);
  ASSERT_EQ(link.Order(REHOME_MSG_START, "m-1"), 0u);
  ASSERT_TRUE(vmm_.Await(&CountingVmm::paused, 1));
  ASSERT_TRUE(link.SendRaw(Message(REHOME_MSG_PROBE)));
  ASSERT_TRUE(link.SendRaw(Message(REHOME_MSG_RELEASE)));
  probe.other_is_sent.release();
  EXPECT_TRUE(vmm_.Await(&CountingVmm::released, 1));
  EXPECT_EQ(vmm_.Read(&CountingVmm::resumed), 0);
  rehome_agent_stop(agent_);
  agent_ = nullptr;
}

TEST_F(Agent, SaysWhichCallbacksItLacks) {
  ops_ = {};
  FakeLink link = StartRegistered();
  EXPECT_EQ(link.Describe("m-1", true, &described_), REHOME_REFUSED_UNSUPPORTED);
  EXPECT_EQ(link.Order(REHOME_MSG_PROBE, "m-1"), REHOME_REFUSED_UNSUPPORTED);
}

TEST_F(Agent, DoesNotArmForMoveWithoutAProbe) {
  ops_.probe_vm = nullptr;
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1", REHOME_FENCE_KERNEL, REHOME_STRATEGY_LINK_MOVE);
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), REHOME_REFUSED_UNSUPPORTED);
}

TEST_F(Agent, DoesNotArmForMoveWithoutAProbeWhateverTheFence) {
  ops_.probe_vm = nullptr;
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1", REHOME_FENCE_BEFORE_RESUME, REHOME_STRATEGY_MAP_MOVE);
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), REHOME_REFUSED_UNSUPPORTED);
}

// ---- PREPARE ----

class AgentTarget : public AgentFixture {
 protected:
  void SetUp() override {
    ops_ = CountingTargetOps();
    StartAt(daemon_.path(), REHOME_ROLE_TARGET);
    link_ = daemon_.Accept();
    ASSERT_TRUE(link_.AnswerHello());
    memset(&source_, 0, sizeof(source_));
    strcpy(source_.vm_id, "vm-1");
    source_.vcpu_count = 1;
    source_.state_format = 7;
    source_.fds[0] = {{REHOME_FD_BLOCK, 0, ""}, block_.fd()};
    source_.fds[1] = {{REHOME_FD_MEMORY, 0, ""}, vmm_.memory};
    source_.fd_count = 2;
    strcpy(terms_.migration_id, "m-1");
    terms_.strategy = REHOME_STRATEGY_MAP;
    terms_.fence_policy = REHOME_FENCE_AFTER_RESUME;
  }

  ArmedBlock block_{"m-1"};
  FakeLink link_;
  rehome_vm source_;
  rehome_prepare terms_ = {};
};

TEST_F(AgentTarget, RefusesTermsThatDoNotFit) {
  struct Spoil {
    std::function<void(rehome_prepare*, rehome_vm*)> spoil;
    uint32_t refusal;
  };
  ArmedBlock other("m-2");
  const std::vector<Spoil> spoils = {
      {[](rehome_prepare* p, rehome_vm*) { strcpy(p->migration_id, "m-2"); },
       REHOME_REFUSED_WRONG_MIGRATION},
      {[&](rehome_prepare*, rehome_vm* vm) { vm->fds[0].fd = other.fd(); },
       REHOME_REFUSED_WRONG_MIGRATION},
      {[](rehome_prepare* p, rehome_vm*) { p->strategy = REHOME_STRATEGY_LINK; },
       REHOME_REFUSED_MALFORMED},
      {[](rehome_prepare* p, rehome_vm*) { p->strategy = 99; }, REHOME_REFUSED_MALFORMED},
      {[](rehome_prepare* p, rehome_vm*) { p->fence_policy = REHOME_FENCE_BEFORE_RESUME; },
       REHOME_REFUSED_MALFORMED},
      {[](rehome_prepare*, rehome_vm* vm) { vm->state_format = 8; }, REHOME_REFUSED_STATE_FORMAT},
      {[](rehome_prepare*, rehome_vm* vm) { vm->state_format_oldest = 6; },
       REHOME_REFUSED_MALFORMED},  // a choice that nobody has made
      {[](rehome_prepare*, rehome_vm* vm) { vm->vcpu_count = 0; }, REHOME_REFUSED_MALFORMED},
      {[&](rehome_prepare*, rehome_vm* vm) { vm->fds[0].fd = vmm_.memory; },
       REHOME_REFUSED_MALFORMED},
      {[](rehome_prepare*, rehome_vm* vm) { vm->fds[1].entry.role = REHOME_FD_PEER_PIDFD; },
       REHOME_REFUSED_MALFORMED},
      {[](rehome_prepare*, rehome_vm* vm) { vm->fds[1].entry.role = REHOME_FD_VM; },
       REHOME_REFUSED_MALFORMED},  // MAP has no use for it
      {[](rehome_prepare*, rehome_vm* vm) {
         vm->fds[0] = vm->fds[1];
         vm->fd_count = 1;
       },
       REHOME_REFUSED_MALFORMED},  // no block
  };
  int fds = CountFds();
  for (size_t i = 0; i < spoils.size(); i++) {
    rehome_prepare terms = terms_;
    rehome_vm source = source_;
    spoils[i].spoil(&terms, &source);
    EXPECT_EQ(link_.Prepare(terms, source, &described_), spoils[i].refusal) << i;
    // Answered when the thread is done with the one before.
    EXPECT_EQ(link_.Order(REHOME_MSG_PROBE, "m-1"), REHOME_REFUSED_UNSUPPORTED);
    EXPECT_EQ(CountFds(), fds) << i;
  }
  EXPECT_EQ(vmm_.Read(&CountingVmm::described), 0);
  EXPECT_EQ(link_.Prepare(terms_, source_, &described_), 0u);
  EXPECT_STREQ(described_.vm_id, "vm-1");
}

TEST_F(AgentTarget, RefusesAConfigThatIsNotSealedOrTooLarge) {
  constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  struct Config {
    off_t size;
    int seals;
    uint32_t status;
  };
  for (const Config& c : {Config{100, 0, REHOME_REFUSED_MALFORMED},
                          Config{100, F_SEAL_SHRINK | F_SEAL_GROW, REHOME_REFUSED_MALFORMED},
                          Config{0, kSealed, REHOME_REFUSED_MALFORMED},
                          Config{REHOME_MAX_CONFIG + 1, kSealed, REHOME_REFUSED_MALFORMED},
                          Config{REHOME_MAX_CONFIG, kSealed, REHOME_REFUSED_NONE}}) {
    int config = memfd_create("config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT_EQ(ftruncate(config, c.size), 0);
    ASSERT_EQ(fcntl(config, F_ADD_SEALS, c.seals), 0);
    source_.fds[2] = {{REHOME_FD_CONFIG, 0, ""}, config};
    source_.fd_count = 3;
    EXPECT_EQ(link_.Prepare(terms_, source_, &described_), c.status) << c.size;
    close(config);
  }
}

TEST_F(AgentTarget, IsArmedOnlyWithAPidfdAndOnlyOnce) {
  EXPECT_EQ(link_.ArmTarget("m-1", block_.self()), REHOME_REFUSED_MALFORMED);  // not prepared
  ASSERT_EQ(link_.Prepare(terms_, source_, &described_), 0u);
  EXPECT_EQ(link_.Prepare(terms_, source_, &described_), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link_.ArmTarget("m-1", vmm_.memory), REHOME_REFUSED_MALFORMED);
  EXPECT_EQ(link_.ArmTarget("m-2", block_.self()), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(link_.ArmTarget("m-1", block_.self()), 0u);
  EXPECT_EQ(link_.ArmTarget("m-1", block_.self()), REHOME_REFUSED_BUSY);
  EXPECT_EQ(rehome_target_claim(agent_), -EINVAL);  // the source has announced nothing
  EXPECT_EQ(link_.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_EQ(rehome_target_wait(agent_, 0), -ECANCELED);
  EXPECT_EQ(rehome_target_claim(agent_), -ECANCELED);
  EXPECT_TRUE(vmm_.Await(&CountingVmm::cancelled, 1));  // told after CANCEL has been answered
}

}  // namespace
}  // namespace rehome
