// SPDX-License-Identifier: Apache-2.0
//
// A source and a target VMM in processes of their own, and a fake daemon in the test that leads
// them through a migration step by step.
#ifndef REHOME_VMM_AGENT_HANDOVER_FIXTURE_H_
#define REHOME_VMM_AGENT_HANDOVER_FIXTURE_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "vmm/agent/fake_daemon.h"
#include "vmm/agent/fake_vmm.h"
#include "vmm/agent/handover_block.h"

namespace rehome {

inline constexpr uint64_t kMs = 1000000;
inline constexpr char kMigration[] = "m-0000000000000001";

struct Terms {
  uint32_t strategy = REHOME_STRATEGY_MAP;
  uint32_t fence_policy = REHOME_FENCE_AFTER_RESUME;
  uint64_t claim_timeout_ns = 10000 * kMs;
  uint64_t resolve_timeout_ns = 10000 * kMs;
  bool target_is_nobody = false;  // needs root
  bool reconnects = false;        // both know where the daemon listens: see Reconnect()
};

inline constexpr Terms kMap = {};
inline constexpr Terms kMapFenced = {.fence_policy = REHOME_FENCE_BEFORE_RESUME};
inline constexpr Terms kLinkMove = {.strategy = REHOME_STRATEGY_LINK_MOVE,
                                    .fence_policy = REHOME_FENCE_KERNEL};
// For the names of tests that are done with each.
std::string PolicyName(const testing::TestParamInfo<Terms>& info);

// What the daemon of a test can do before it dies or leaves the rest alone.
enum class Stage { kConnected, kDescribed, kPrepared, kTargetArmed, kSourceArmed, kStarted };

class Handover {
 public:
  explicit Handover(const Terms& terms);
  ~Handover();  // kills what is left

  // Does everything up to and including `stage`. False if a step was refused.
  bool Lead(Stage stage);
  bool Describe();
  bool Prepare();
  bool ArmTarget();
  bool ArmSource();
  bool Start();

  // Waits until `condition`, which looks at page(), the verdict or the clock of nobody, is true.
  bool WaitUntil(const std::function<bool()>& condition);
  bool WaitFor(Step step);
  bool WaitForVerdict(uint32_t verdict);
  // The process has exited; it is reaped.
  bool AwaitSourceExit();
  bool AwaitTargetExit();

  void HangAt(Step step);  // before the step is reached
  void LetGo();            // whoever hangs goes on

  // SIGKILL, and the end of it.
  void KillSource();
  void KillTarget();
  void CloseLinks();  // the daemon dies
  // A new one is there: whoever of the two lives connects to it, and says HELLO. True if it was
  // each of `source` and `target` that is asked for. What HELLO said is in source_role() etc.
  bool Reconnect(bool source, bool target);
  uint32_t source_role() const { return source_role_; }
  uint32_t target_role() const { return target_role_; }
  FakeDaemon& daemon() { return *daemon_; }

  VmmPage& page() { return *page_; }
  FakeLink& source() { return source_link_; }
  FakeLink& target() { return target_link_; }
  rehome_block& block() { return block_; }
  const rehome_block& block() const { return block_; }
  int block_fd() const { return block_fd_; }
  pid_t target_pid() const { return target_; }
  int source_pidfd() const { return source_pidfd_; }
  int target_pidfd() const { return target_pidfd_; }
  uint32_t verdict() const { return rehome_block_verdict(&block_); }
  rehome_vm& description() { return *description_; }

  // Guests that run, now.
  uint32_t owners() { return page_->source_runs.load() + page_->target_runs.load(); }

 private:
  pid_t Fork(void (*body)(VmmPage*, int), FakeLink* link);
  bool AwaitExit(pid_t* pid, int pidfd, std::atomic<uint32_t>* runs);

  Terms terms_;
  VmmPage* page_;
  std::unique_ptr<FakeDaemon> daemon_;  // if they reconnect
  FakeLink source_link_, target_link_;
  uint32_t source_role_ = 0, target_role_ = 0;
  pid_t source_ = 0, target_ = 0;
  int source_pidfd_ = -1, target_pidfd_ = -1;
  int block_fd_ = -1;
  rehome_block block_ = {};
  std::unique_ptr<rehome_vm> description_;
};

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_HANDOVER_FIXTURE_H_
