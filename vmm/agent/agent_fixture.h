// SPDX-License-Identifier: Apache-2.0
//
// The library in the test's own process, with a VMM that only counts, and the fake daemon.
#ifndef REHOME_VMM_AGENT_AGENT_FIXTURE_H_
#define REHOME_VMM_AGENT_AGENT_FIXTURE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "gtest/gtest.h"
#include "vmm/agent/fake_daemon.h"
#include "vmm/agent/rehome_agent.h"

namespace rehome {

int CountFds();
rehome_register Registration(const char* id);

// State formats that a CountingVmm offers.
inline constexpr uint32_t kOldestFormat = 3;
inline constexpr uint32_t kNewestFormat = 5;

// A VMM that counts its callbacks.
struct CountingVmm {
  CountingVmm();
  ~CountingVmm();
  void Count(int CountingVmm::*counter);
  bool Await(int CountingVmm::*counter, int value);
  int Read(int CountingVmm::*counter);

  std::mutex mutex;
  std::condition_variable changed;
  int described = 0, armed = 0, cancelled = 0, paused = 0, resumed = 0, released = 0;
  int refuse_describe = 0;
  uint32_t describe_refusal =
      REHOME_REFUSED_RESOURCES;           // with which answer; set before it is asked
  int bad_description = 0;                // which way
  std::atomic<uint32_t> armed_format{0};  // what ARM_SOURCE named
  int memory = -1;
};

// All of a source's callbacks; `opaque` is a CountingVmm.
rehome_agent_ops CountingSourceOps();
// A target's prepare() and cancelled().
rehome_agent_ops CountingTargetOps();

// A handover block, and a pidfd of a process that lives.
class ArmedBlock {
 public:
  explicit ArmedBlock(const char* migration_id, uint32_t policy = REHOME_FENCE_AFTER_RESUME,
                      uint32_t strategy = REHOME_STRATEGY_MAP,
                      uint64_t each_timeout_ns = 1000000000);
  ~ArmedBlock();
  int fd() const { return fd_; }
  int self() const { return self_; }

 private:
  int fd_, self_;
};

class AgentFixture : public testing::Test {
 protected:
  ~AgentFixture() override {
    rehome_agent_stop(agent_);
    rehome_trace_free(trace_);
  }

  static rehome_agent_config Config(uint32_t role = REHOME_ROLE_OWNER);
  void StartAt(const std::string& path, uint32_t role = REHOME_ROLE_OWNER);
  // An owner that is connected to daemon_ and registered.
  FakeLink StartRegistered();
  FakeLink AcceptRegistered();

  FakeDaemon daemon_;
  CountingVmm vmm_;
  rehome_agent_ops ops_ = CountingSourceOps();
  rehome_agent* agent_ = nullptr;
  rehome_trace* const trace_ = rehome_trace_new();
  rehome_vm described_;
};

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_AGENT_FIXTURE_H_
