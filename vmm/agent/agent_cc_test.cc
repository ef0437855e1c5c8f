// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "vmm/agent/agent.hpp"
#include "vmm/agent/fake_daemon.h"

namespace rehome {
namespace {

class Handler : public AgentHandler {
 public:
  ~Handler() override { close(memory_); }

  AgentAnswer Describe(bool hold, rehome_vm* vm) override {
    if (hold) return AgentAnswer::No(REHOME_REFUSED_BUSY, "hot-plug under way");
    CopyId(vm->vm_id, "vm-1");
    vm->vcpu_count = 3;
    vm->fds[0] = {{REHOME_FD_VM, 0, ""}, memory_};
    vm->fds[1] = {{REHOME_FD_MEMORY, 0, ""}, memory_};
    vm->fd_count = 2;
    return AgentAnswer::Yes();
  }
  AgentAnswer PauseAndSave(rehome_block*, uint64_t*) override {
    return AgentAnswer::No(REHOME_REFUSED_INTERNAL, "");
  }
  uint64_t LayoutDigest() override { return 0; }
  void Resume() override {}
  void Released() override {}
  AgentAnswer Prepare(const Terms&, const rehome_vm&, rehome_block*, rehome_vm*) override {
    return AgentAnswer::No(REHOME_REFUSED_INTERNAL, "");
  }
  int ProbeVm() override { return alive.load() ? 0 : -EIO; }
  void Cancelled() override {}

  std::atomic<bool> alive = true;

 private:
  int memory_ = memfd_create("memory", MFD_CLOEXEC);
};

AgentOptions Options(const FakeDaemon& daemon) {
  AgentOptions options;
  options.socket_path = daemon.path();
  options.vmm_name = "cc";
  options.vmm_version = "2";
  return options;
}

TEST(AgentCc, CarriesCallsAndAnswersBothWays) {
  FakeDaemon daemon;
  Handler handler;
  std::unique_ptr<Agent> agent = Agent::Start(Options(daemon), &handler);
  ASSERT_NE(agent, nullptr);
  rehome_register vm = {};
  ASSERT_TRUE(CopyId(vm.vm_id, "vm-1"));
  vm.vcpu_count = 3;
  EXPECT_EQ(agent->Register(vm), 0);

  FakeLink link = daemon.Accept();
  std::optional<rehome_hello> hello = link.AnswerHello();
  ASSERT_TRUE(hello);
  EXPECT_STREQ(hello->vmm_name, "cc");
  ASSERT_TRUE(link.AnswerRegister());
  auto described = std::make_unique<rehome_vm>();
  EXPECT_EQ(link.Describe("m-1", true, described.get()), REHOME_REFUSED_BUSY);
  EXPECT_EQ(link.refusal_text(), "hot-plug under way");
  EXPECT_EQ(link.Describe("m-1", false, described.get()), 0u);
  EXPECT_EQ(described->vcpu_count, 3u);
  EXPECT_EQ(link.Probe("m-1")->vm_alive, 1u);
  handler.alive.store(false);
  EXPECT_EQ(link.Probe("m-1")->vm_alive, 0u);
  EXPECT_EQ(agent->SendEvent(REHOME_EVENT_GUEST_STOPPED, "halted"), 0);
  EXPECT_STREQ(link.AwaitEvent(REHOME_EVENT_GUEST_STOPPED)->text, "halted");
  EXPECT_EQ(agent->TargetWait(0), -EINVAL);
}

TEST(AgentCc, SaysWhyItCannotStart) {
  FakeDaemon daemon;
  Handler handler;
  AgentOptions options = Options(daemon);
  options.vmm_name.clear();
  EXPECT_EQ(Agent::Start(options, &handler), nullptr);
  EXPECT_EQ(errno, EINVAL);
}

TEST(CopyId, RefusesWhatDoesNotFit) {
  char id[4];
  EXPECT_TRUE(CopyId(id, "abc"));
  EXPECT_STREQ(id, "abc");
  EXPECT_FALSE(CopyId(id, "abcd"));
}

}  // namespace
}  // namespace rehome
