// SPDX-License-Identifier: Apache-2.0
//
// A daemon that goes away and comes back, refuses, floods, and breaks the protocol.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/agent_fixture.h"

namespace rehome {
namespace {

class Agent : public AgentFixture {};

// ---- start ----

TEST_F(Agent, RefusesAConfigurationThatCannotWork) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const std::string long_path(200, 'x');
  const std::string long_name(REHOME_ID_SIZE, 'x');
  const std::vector<std::function<void(rehome_agent_config*)>> spoils = {
      [](rehome_agent_config* c) { c->socket_path = nullptr; },
      [&](rehome_agent_config* c) { c->socket_path = long_path.c_str(); },
      [&](rehome_agent_config* c) { c->vmm_name = long_name.c_str(); },
      [&](rehome_agent_config* c) { c->vmm_version = long_name.c_str(); },
      [](rehome_agent_config* c) { c->vmm_version = nullptr; },
      [](rehome_agent_config* c) { c->vmm_name = ""; },
      [](rehome_agent_config* c) { c->vmm_name = "line\n"; },
      [](rehome_agent_config* c) { c->role = 0; },
      [](rehome_agent_config* c) { c->role = 3; },
      [&](rehome_agent_config* c) { c->connection_fd = ends[0]; },  // a stream
      [&](rehome_agent_config* c) { c->connection_fd = vmm_.memory; },
  };
  int fds = CountFds();
  for (size_t i = 0; i < spoils.size(); i++) {
    rehome_agent_config config = Config();
    config.socket_path = daemon_.path().c_str();
    spoils[i](&config);
    EXPECT_EQ(rehome_agent_start(&config, &ops_, &vmm_), nullptr) << i;
    EXPECT_EQ(errno, EINVAL) << i;
  }
  EXPECT_EQ(CountFds(), fds);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(Agent, SaysWhoItIs) {
  StartAt(daemon_.path());
  FakeLink link = daemon_.Accept();
  std::optional<rehome_hello> hello = link.AnswerHello();
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->version_min, REHOME_PROTOCOL_VERSION);
  EXPECT_EQ(hello->features, REHOME_FEATURES_ALL);
  EXPECT_EQ(hello->role, static_cast<uint32_t>(REHOME_ROLE_OWNER));
  EXPECT_EQ(hello->state_format_read_max, 7u);
  EXPECT_STREQ(hello->vmm_name, "test");
}

TEST_F(Agent, RefusesARegistrationOrEventThatMakesNoSense) {
  StartAt(daemon_.path());
  rehome_register vm = Registration("Not An Id");
  EXPECT_EQ(rehome_agent_register(agent_, &vm), -EINVAL);
  vm = Registration("vm-1");
  vm.vcpu_count = REHOME_MAX_VCPUS + 1;
  EXPECT_EQ(rehome_agent_register(agent_, &vm), -EINVAL);
  vm.vcpu_count = 1;
  EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
  EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
  vm = Registration("vm-2");
  EXPECT_EQ(rehome_agent_register(agent_, &vm), -EALREADY);
  EXPECT_EQ(rehome_agent_send_event(agent_, 0, ""), -EINVAL);
  EXPECT_EQ(rehome_agent_send_event(agent_, REHOME_EVENT_VM_DEAD + 1, ""), -EINVAL);
}

TEST_F(Agent, IsNotInATakeOverBeforePrepare) {
  StartAt(daemon_.path(), REHOME_ROLE_TARGET);
  rehome_register vm = Registration("vm-1");
  EXPECT_EQ(rehome_target_wait(agent_, 0), -EINVAL);
  EXPECT_EQ(rehome_target_claim(agent_), -EINVAL);
  EXPECT_EQ(rehome_target_commit(agent_), -EINVAL);
  EXPECT_EQ(rehome_target_refuse(agent_, "no"), -EINVAL);
  EXPECT_EQ(rehome_target_run(agent_), -EINVAL);
  EXPECT_EQ(rehome_target_first_run(agent_, &vm, nullptr), -EINVAL);
}

// ---- connections come and go ----

TEST_F(Agent, WaitsForADaemonThatIsNotThereYet) {
  daemon_.StopListening();
  StartAt(daemon_.path());
  rehome_register vm = Registration("vm-1");
  EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
  daemon_.StartListening();
  AcceptRegistered();
}

TEST_F(Agent, RegistersAgainWithADaemonThatCameBack) {
  FakeLink link = StartRegistered();
  for (int i = 0; i < 3; i++) {
    daemon_.StopListening();
    link.Close();
    daemon_.StartListening();
    link = AcceptRegistered();
  }
  EXPECT_EQ(vmm_.Read(&CountingVmm::cancelled), 0);
}

TEST_F(Agent, AnnouncesAChangeOfItsVm) {
  FakeLink link = StartRegistered();
  rehome_register vm = Registration("vm-1");
  vm.memory_bytes = 1 << 30;
  EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
  std::optional<rehome_register> changed = link.AnswerRegister();
  ASSERT_TRUE(changed);
  EXPECT_EQ(changed->memory_bytes, 1u << 30);
}

TEST_F(Agent, KeepsEventsForTheNextConnectionAndSendsThemAfterTheRegistration) {
  FakeLink link = StartRegistered();
  daemon_.StopListening();
  link.Close();
  EXPECT_EQ(rehome_agent_send_event(agent_, REHOME_EVENT_GUEST_STOPPED, "shutdown"), 0);
  daemon_.StartListening();
  link = AcceptRegistered();
  std::optional<rehome_event> event = link.AwaitEvent(REHOME_EVENT_GUEST_STOPPED);
  ASSERT_TRUE(event);
  EXPECT_STREQ(event->text, "shutdown");
  EXPECT_STREQ(event->migration_id, "");
}

TEST_F(Agent, KeepsTheNewestEventsWhenTheDaemonStaysAway) {
  constexpr int kEvents = 100;
  daemon_.StopListening();
  StartAt(daemon_.path());
  for (int i = 0; i < kEvents; i++) {
    rehome_agent_send_event(agent_, REHOME_EVENT_GUEST_STOPPED, std::to_string(i).c_str());
  }
  daemon_.StartListening();
  FakeLink link = daemon_.Accept();
  ASSERT_TRUE(link.AnswerHello());
  std::vector<std::string> seen;
  while (seen.empty() || seen.back() != std::to_string(kEvents - 1)) {
    std::optional<rehome_event> event = link.AwaitEvent(REHOME_EVENT_GUEST_STOPPED);
    ASSERT_TRUE(event);
    seen.push_back(event->text);
  }
  EXPECT_EQ(seen.size(), 16u);
  EXPECT_EQ(seen.front(), std::to_string(kEvents - 16));
}

TEST_F(Agent, TriesARefusedRegistrationAgain) {
  StartAt(daemon_.path());
  rehome_register vm = Registration("vm-1");
  ASSERT_EQ(rehome_agent_register(agent_, &vm), 0);
  FakeLink link = daemon_.Accept();
  ASSERT_TRUE(link.AnswerHello());
  EXPECT_TRUE(link.AnswerRegister(REHOME_REFUSED_ID_TAKEN));
  EXPECT_TRUE(link.AnswerRegister());
}

TEST_F(Agent, ConnectsAgainAfterARefusedHello) {
  StartAt(daemon_.path());
  FakeLink refused = daemon_.Accept();
  EXPECT_TRUE(refused.AnswerHello(REHOME_REFUSED_DENIED));
  EXPECT_TRUE(refused.AwaitClosed());
  FakeLink link = daemon_.Accept();
  EXPECT_TRUE(link.AnswerHello());
}

TEST_F(Agent, TurnsATargetOffWhoseDaemonIsGoneBeforeItWasArmed) {
  StartAt(daemon_.path(), REHOME_ROLE_TARGET);
  FakeLink link = daemon_.Accept();
  ASSERT_TRUE(link.AnswerHello());
  link.Close();
  EXPECT_TRUE(vmm_.Await(&CountingVmm::cancelled, 1));
}

// ---- a daemon that breaks the protocol ----

std::vector<uint8_t> Header(uint16_t type, uint32_t flags, uint64_t seq, uint32_t size,
                            uint32_t fds = 0) {
  rehome_header header = {};
  header.magic = REHOME_PROTOCOL_MAGIC;
  header.version = REHOME_PROTOCOL_VERSION;
  header.type = type;
  header.flags = flags;
  header.seq = seq;
  header.payload_size = size;
  header.fd_count = fds;
  std::vector<uint8_t> bytes(sizeof(header) + size);
  memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

TEST_F(Agent, ClosesTheConnectionOnEveryViolationAndServesTheNextOne) {
  FakeLink link = StartRegistered();
  const int spare = vmm_.memory;
  struct Violation {
    std::vector<uint8_t> bytes;
    std::vector<int> fds;
  };
  constexpr uint32_t kRef = sizeof(rehome_migration_ref);
  const std::vector<Violation> violations = {
      {{1, 2, 3}, {}},
      {std::vector<uint8_t>(REHOME_MAX_MESSAGE, 0xff), {}},
      {std::vector<uint8_t>(REHOME_MAX_MESSAGE + 1, 0xff), {spare}},
      {Header(REHOME_MSG_START, 0, 1, kRef), {}},          // an empty migration id
      {Header(REHOME_MSG_START, 0, 1, kRef - 1), {}},      // too short
      {Header(REHOME_MSG_START, 0, 1, kRef, 1), {spare}},  // an fd too many
      {Header(REHOME_MSG_START, 0, 1, kRef, 1), {}},       // an fd that is not there
      {Header(REHOME_MSG_ARM_SOURCE, 0, 1, sizeof(rehome_arm), 1), {spare}},  // one too few
      {Header(REHOME_MSG_HELLO, 0, 1, sizeof(rehome_hello)), {}},  // not the daemon's to send
      {Header(REHOME_MSG_EVENT, 0, 1, sizeof(rehome_event)), {}},
      {Header(REHOME_MSG_REGISTER, REHOME_FLAG_REPLY, 99, 0), {}},  // to nothing we asked
      {Header(REHOME_MSG_HELLO, REHOME_FLAG_REPLY, 1, sizeof(rehome_hello_reply)), {}},
      {Header(REHOME_MSG_PREPARE, 0, 1, 10), {}},
      {Header(999, 0, 1, 0), {}},
      {std::vector<uint8_t>(64, 0), std::vector<int>(200, spare)},
  };
  int fds = CountFds();
  for (size_t i = 0; i < violations.size(); i++) {
    ASSERT_TRUE(link.SendRaw(violations[i].bytes, violations[i].fds)) << i;
    EXPECT_TRUE(link.AwaitClosed()) << i;
    link = AcceptRegistered();
    EXPECT_EQ(CountFds(), fds) << i;
  }
  EXPECT_EQ(vmm_.Read(&CountingVmm::paused), 0);
  EXPECT_EQ(link.Describe("m-1", false, &described_), 0u);
}

TEST_F(Agent, RefusesRequestsBeforeItsHelloIsAnswered) {
  StartAt(daemon_.path());
  FakeLink link = daemon_.Accept();
  EXPECT_FALSE(link.Order(REHOME_MSG_PROBE, "m-1"));
  EXPECT_EQ(vmm_.Read(&CountingVmm::described), 0);
}

TEST_F(Agent, SurvivesADaemonThatAsksAndDoesNotReadTheAnswers) {
  FakeLink link = StartRegistered();
  std::vector<uint8_t> probe = Header(REHOME_MSG_PROBE, 0, 1, sizeof(rehome_migration_ref));
  probe[sizeof(rehome_header)] = 'm';
  constexpr int kMore = 100000;  // than both socket buffers hold
  for (int i = 0; i < kMore && link.SendRaw(probe); i++) continue;
  link.Close();
  AcceptRegistered();
}

}  // namespace
}  // namespace rehome
