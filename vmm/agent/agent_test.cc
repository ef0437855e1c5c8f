// SPDX-License-Identifier: Apache-2.0
//
// The library in this process, against a daemon that misbehaves, goes away and comes back.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "vmm/agent/fake_daemon.h"
#include "vmm/agent/rehome_agent.h"

namespace rehome {
namespace {

constexpr uint64_t kSecond = 1000000000;

int CountFds() {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) count++;
  closedir(directory);
  return count;
}

rehome_register Registration(const char* id) {
  rehome_register vm = {};
  strcpy(vm.vm_id, id);
  vm.vcpu_count = 1;
  return vm;
}

// A VMM that counts its callbacks.
struct Vmm {
  std::mutex mutex;
  std::condition_variable changed;
  int described = 0, armed = 0, cancelled = 0, paused = 0, resumed = 0;
  int refuse_describe = 0;
  int bad_description = 0;
  int memory = memfd_create("memory", MFD_CLOEXEC);

  ~Vmm() { close(memory); }
  void Count(int Vmm::*counter) {
    std::lock_guard<std::mutex> lock(mutex);
    (this->*counter)++;
    changed.notify_all();
  }
  bool Await(int Vmm::*counter, int value) {
    std::unique_lock<std::mutex> lock(mutex);
    return changed.wait_for(lock, std::chrono::milliseconds(kFakeDaemonTimeoutMs),
                            [&] { return this->*counter >= value; });
  }
  int Read(int Vmm::*counter) {
    std::lock_guard<std::mutex> lock(mutex);
    return this->*counter;
  }
};

Vmm* Self(void* opaque) { return static_cast<Vmm*>(opaque); }

int Describe(void* opaque, int, rehome_vm* vm, rehome_error* error) {
  Vmm* self = Self(opaque);
  self->Count(&Vmm::described);
  if (self->Read(&Vmm::refuse_describe) != 0) {
    error->refusal = REHOME_REFUSED_RESOURCES;
    strcpy(error->text, "not now");
    return -EBUSY;
  }
  strcpy(vm->vm_id, "vm-1");
  vm->vcpu_count = 1;
  vm->fds[0] = {{REHOME_FD_MEMORY, 0, ""}, self->memory};
  vm->fds[1] = {{REHOME_FD_VM, 0, ""}, self->memory};
  vm->fd_count = 2;
  switch (self->Read(&Vmm::bad_description)) {
    case 1:
      vm->vcpu_count = 0;
      break;
    case 2:
      vm->fds[0].fd = 1000000;  // not open
      break;
    case 4:
      vm->fd_count = 1;  // no VM
      break;
    case 3:
      vm->fd_count = REHOME_MAX_FDS;  // no room for BLOCK
      for (uint32_t i = 2; i < vm->fd_count; i++) {
        vm->fds[i] = {{REHOME_FD_NAMED, 0, ""}, self->memory};
        snprintf(vm->fds[i].entry.name, sizeof(vm->fds[i].entry.name), "device%u", i);
      }
      break;
  }
  return 0;
}

rehome_agent_ops SourceOps() {
  rehome_agent_ops ops = {};
  ops.describe = Describe;
  ops.arm_source = [](void* opaque, rehome_block*, rehome_error*) {
    Self(opaque)->Count(&Vmm::armed);
    return 0;
  };
  ops.pause_and_save = [](void* opaque, rehome_block*, uint64_t* size, rehome_error*) {
    Self(opaque)->Count(&Vmm::paused);
    *size = 0;
    return 0;
  };
  ops.layout_digest = [](void*) -> uint64_t { return 5; };
  ops.probe_vm = [](void*) { return 0; };
  ops.resume = [](void* opaque) { Self(opaque)->Count(&Vmm::resumed); };
  ops.cancelled = [](void* opaque) { Self(opaque)->Count(&Vmm::cancelled); };
  return ops;
}

rehome_agent_config Config(uint32_t role = REHOME_ROLE_OWNER) {
  rehome_agent_config config = {};
  config.connection_fd = -1;
  config.role = role;
  config.features = REHOME_FEATURES_ALL;
  config.state_format_read_max = 7;
  config.vmm_name = "test";
  config.vmm_version = "1";
  return config;
}

class Agent : public testing::Test {
 protected:
  ~Agent() override { rehome_agent_stop(agent_); }

  void StartAt(const std::string& path, uint32_t role = REHOME_ROLE_OWNER) {
    rehome_agent_config config = Config(role);
    config.socket_path = path.c_str();
    agent_ = rehome_agent_start(&config, &ops_, &vmm_);
    ASSERT_NE(agent_, nullptr);
  }
  // An owner that is connected to daemon_ and registered.
  FakeLink StartRegistered() {
    StartAt(daemon_.path());
    rehome_register vm = Registration("vm-1");
    EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
    return AcceptRegistered();
  }
  FakeLink AcceptRegistered() {
    FakeLink link = daemon_.Accept();
    EXPECT_TRUE(link.AnswerHello());
    std::optional<rehome_register> vm = link.AnswerRegister();
    EXPECT_TRUE(vm && strcmp(vm->vm_id, "vm-1") == 0);
    return link;
  }

  FakeDaemon daemon_;
  Vmm vmm_;
  rehome_agent_ops ops_ = SourceOps();
  rehome_agent* agent_ = nullptr;
  rehome_vm described_;
};

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
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 0);
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
  EXPECT_TRUE(vmm_.Await(&Vmm::cancelled, 1));
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
  EXPECT_EQ(vmm_.Read(&Vmm::paused), 0);
  EXPECT_EQ(link.Describe("m-1", false, &described_), 0u);
}

TEST_F(Agent, RefusesRequestsBeforeItsHelloIsAnswered) {
  StartAt(daemon_.path());
  FakeLink link = daemon_.Accept();
  EXPECT_FALSE(link.Order(REHOME_MSG_PROBE, "m-1"));
  EXPECT_EQ(vmm_.Read(&Vmm::described), 0);
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

// ---- requests out of place ----

class ArmedBlock {
 public:
  explicit ArmedBlock(const char* migration_id, uint32_t policy = REHOME_FENCE_AFTER_RESUME,
                      uint32_t strategy = REHOME_STRATEGY_MAP) {
    rehome_block_params params = {migration_id, 4096, kSecond, kSecond, policy, strategy};
    fd_ = rehome_block_create(&params);
    self_ = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  }
  ~ArmedBlock() {
    close(fd_);
    close(self_);
  }
  int fd() const { return fd_; }
  int self() const { return self_; }  // a pidfd of a living process

 private:
  int fd_, self_;
};

TEST_F(Agent, HoldsForOneMigrationAtATime) {
  FakeLink link = StartRegistered();
  EXPECT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.Describe("m-1", true, &described_), 0u);
  EXPECT_EQ(link.Describe("m-2", true, &described_), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link.Describe("m-2", false, &described_), 0u);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-2"), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 0);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 1);
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);  // again: nothing is under way
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 1);
  EXPECT_EQ(link.Describe("m-2", true, &described_), 0u);
}

TEST_F(Agent, ForgetsAMigrationWhoseDaemonIsGone) {
  FakeLink link = StartRegistered();
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  link.Close();
  EXPECT_TRUE(vmm_.Await(&Vmm::cancelled, 1));
  link = AcceptRegistered();
  EXPECT_EQ(link.Describe("m-2", true, &described_), 0u);
}

TEST_F(Agent, PassesOnWhyTheVmmRefuses) {
  FakeLink link = StartRegistered();
  vmm_.Count(&Vmm::refuse_describe);
  EXPECT_EQ(link.Describe("m-1", true, &described_), REHOME_REFUSED_RESOURCES);
  EXPECT_EQ(link.refusal_text(), "not now");
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 0);  // it holds nothing
}

TEST_F(Agent, DoesNotSendADescriptionThatNobodyWouldAccept) {
  FakeLink link = StartRegistered();
  for (int kind = 1; kind <= 4; kind++) {
    vmm_.Count(&Vmm::bad_description);
    std::optional<uint32_t> status = link.Describe("m-1", true, &described_);
    EXPECT_EQ(status, kind == 2 ? REHOME_REFUSED_KERNEL : REHOME_REFUSED_INTERNAL) << kind;
    EXPECT_EQ(vmm_.Read(&Vmm::cancelled), kind);  // let go of what describe() held
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
  EXPECT_EQ(vmm_.Read(&Vmm::armed), 0);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.fd(), good.self()), 0u);
  EXPECT_EQ(link.ArmSource("m-1", 5, good.fd(), good.self()), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link.Order(REHOME_MSG_START, "m-2"), REHOME_REFUSED_WRONG_MIGRATION);
  EXPECT_EQ(vmm_.Read(&Vmm::paused), 0);
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
  ASSERT_TRUE(vmm_.Await(&Vmm::paused, 1));
  EXPECT_EQ(link.Describe("m-9", false, &described_), REHOME_REFUSED_BUSY);  // in the blackout
  EXPECT_EQ(link.Order(REHOME_MSG_CANCEL, "m-1"), 0u);
  EXPECT_TRUE(link.AwaitEvent(REHOME_EVENT_RESUMED));
  EXPECT_EQ(vmm_.Read(&Vmm::resumed), 1);
  EXPECT_EQ(rehome_block_verdict(&mapped), static_cast<uint32_t>(REHOME_VERDICT_ABORTED));
  EXPECT_EQ(link.Order(REHOME_MSG_PROBE, "m-1"), 0u);  // the thread is past its clean-up
  EXPECT_EQ(CountFds(), fds);
  rehome_block_unmap(&mapped);
}

TEST_F(Agent, StopsOnlyAfterThePausedGuestRunsAgain) {
  FakeLink link = StartRegistered();
  ArmedBlock block("m-1");
  ASSERT_EQ(link.Describe("m-1", true, &described_), 0u);
  ASSERT_EQ(link.ArmSource("m-1", 5, block.fd(), block.self()), 0u);
  ASSERT_EQ(link.Order(REHOME_MSG_START, "m-1"), 0u);
  ASSERT_TRUE(vmm_.Await(&Vmm::paused, 1));
  rehome_agent_stop(agent_);  // at the claim deadline, a second after the pause
  agent_ = nullptr;
  EXPECT_EQ(vmm_.Read(&Vmm::resumed), 1);
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

// ---- PREPARE ----

class AgentTarget : public Agent {
 protected:
  void SetUp() override {
    ops_ = {};
    ops_.prepare = [](void* opaque, uint32_t, uint32_t, const rehome_vm* source, rehome_block*,
                      rehome_vm* target, rehome_error*) {
      target->fds[0] = {{REHOME_FD_MEMORY, 0, ""}, Self(opaque)->memory};
      target->fds[1] = {{REHOME_FD_VM, 0, ""}, Self(opaque)->memory};
      target->fd_count = 2;
      Self(opaque)->Count(&Vmm::described);
      for (uint32_t i = 0; i < source->fd_count; i++) close(source->fds[i].fd);
      target->vcpu_count = 1;
      return 0;
    };
    ops_.cancelled = [](void* opaque) { Self(opaque)->Count(&Vmm::cancelled); };
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
  EXPECT_EQ(vmm_.Read(&Vmm::described), 0);
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
  EXPECT_EQ(vmm_.Read(&Vmm::cancelled), 1);
}

}  // namespace
}  // namespace rehome
