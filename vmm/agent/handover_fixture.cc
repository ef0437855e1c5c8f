// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/handover_fixture.h"

#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "gtest/gtest.h"

namespace rehome {
namespace {

int OpenPidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

bool Moves(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

}  // namespace

std::string PolicyName(const testing::TestParamInfo<Terms>& info) {
  if (info.param.fence_policy == REHOME_FENCE_KERNEL) return "LinkMove";
  return info.param.fence_policy == REHOME_FENCE_BEFORE_RESUME ? "MapFenceBefore" : "MapFenceAfter";
}

Handover::Handover(const Terms& terms)
    : terms_(terms), page_(NewVmmPage()), description_(std::make_unique<rehome_vm>()) {
  rehome_block_params params = {
      kMigration,         64 << 10,      terms.claim_timeout_ns, terms.resolve_timeout_ns,
      terms.fence_policy, terms.strategy};
  block_fd_ = rehome_block_create(&params);
  EXPECT_GE(block_fd_, 0);
  EXPECT_EQ(rehome_block_map(block_fd_, &block_), 0);
  page_->target_is_nobody.store(terms.target_is_nobody ? 1 : 0);
  if (terms.reconnects) {
    daemon_ = std::make_unique<FakeDaemon>();
    strcpy(page_->agent_socket, daemon_->path().c_str());
  }
  source_ = Fork(RunFakeSource, &source_link_);
  target_ = Fork(RunFakeTarget, &target_link_);
  source_pidfd_ = OpenPidfd(source_);
  target_pidfd_ = OpenPidfd(target_);
}

Handover::~Handover() {
  KillSource();
  KillTarget();
  CloseLinks();
  for (int fd : {source_pidfd_, target_pidfd_, block_fd_}) {
    if (fd >= 0) close(fd);
  }
  rehome_block_unmap(&block_);
  FreeVmmPage(page_);
}

pid_t Handover::Fork(void (*body)(VmmPage*, int), FakeLink* link) {
  FakePair pair = MakeFakePair();
  pid_t pid = fork();
  if (pid == 0) {
    // Nothing of the test may keep the other side's connection open.
    source_link_.Close();
    pair.daemon.Close();
    body(page_, pair.agent_fd);
  }
  close(pair.agent_fd);
  *link = std::move(pair.daemon);
  return pid;
}

bool Handover::Lead(Stage stage) {
  if (!source_link_.AnswerHello() || !source_link_.AnswerRegister()) return false;
  if (!target_link_.AnswerHello()) return false;
  if (stage >= Stage::kDescribed && !Describe()) return false;
  if (stage >= Stage::kPrepared && !Prepare()) return false;
  if (stage >= Stage::kTargetArmed && !ArmTarget()) return false;
  if (stage >= Stage::kSourceArmed && !ArmSource()) return false;
  return stage < Stage::kStarted || Start();
}

bool Handover::Describe() {
  return source_link_.Describe(kMigration, true, description_.get()) == 0u;
}

bool Handover::Prepare() {
  rehome_prepare terms = {};
  strcpy(terms.migration_id, kMigration);
  terms.strategy = terms_.strategy;
  terms.fence_policy = terms_.fence_policy;
  auto source = std::make_unique<rehome_vm>(*description_);
  if (!Moves(terms_.strategy)) {
    source->fd_count--;  // without the VM fd, which is the first
    memmove(&source->fds[0], &source->fds[1], source->fd_count * sizeof(source->fds[0]));
  }
  source->fds[source->fd_count++] = {{REHOME_FD_BLOCK, 0, ""}, block_fd_};
  auto target = std::make_unique<rehome_vm>();
  return target_link_.Prepare(terms, *source, target.get()) == 0u &&
         target->layout_digest == kFakeLayoutDigest;
}

bool Handover::ArmTarget() { return target_link_.ArmTarget(kMigration, source_pidfd_) == 0u; }

bool Handover::ArmSource() {
  return source_link_.ArmSource(kMigration, kFakeLayoutDigest, block_fd_, target_pidfd_) == 0u;
}

bool Handover::Start() { return source_link_.Order(REHOME_MSG_START, kMigration) == 0u; }

bool Handover::WaitUntil(const std::function<bool()>& condition) {
  uint64_t deadline = rehome_monotonic_ns() + kFakeDaemonTimeoutMs * kMs;
  for (;;) {
    uint32_t seen = page_->changes.load();
    if (condition()) return true;
    if (rehome_monotonic_ns() > deadline) return false;
    timespec second = {.tv_sec = 1, .tv_nsec = 0};
    syscall(SYS_futex, &page_->changes, FUTEX_WAIT, seen, &second, nullptr, 0);
  }
}

bool Handover::WaitFor(Step step) {
  return WaitUntil([&] { return (page_->reached.load() >> static_cast<uint32_t>(step)) & 1; });
}

bool Handover::WaitForVerdict(uint32_t verdict) {
  return rehome_block_wait_verdict_in(&block_, REHOME_VERDICT_BIT(verdict),
                                      rehome_monotonic_ns() + kFakeDaemonTimeoutMs * kMs) == 0;
}

bool Handover::AwaitExit(pid_t* pid, int pidfd, std::atomic<uint32_t>* runs) {
  if (*pid == 0) return true;
  pollfd poller = {.fd = pidfd, .events = POLLIN, .revents = 0};
  if (poll(&poller, 1, kFakeDaemonTimeoutMs) != 1) return false;
  waitpid(*pid, nullptr, 0);
  *pid = 0;
  runs->store(0);  // whoever is dead runs nothing
  return true;
}

bool Handover::AwaitSourceExit() { return AwaitExit(&source_, source_pidfd_, &page_->source_runs); }
bool Handover::AwaitTargetExit() { return AwaitExit(&target_, target_pidfd_, &page_->target_runs); }

void Handover::HangAt(Step step) { page_->hang_at.store(static_cast<uint32_t>(step)); }

void Handover::LetGo() {
  page_->hang_at.store(0);
  Announce(page_);
}

void Handover::KillSource() {
  if (source_ != 0) kill(source_, SIGKILL);
  EXPECT_TRUE(AwaitSourceExit());
}

void Handover::KillTarget() {
  if (target_ != 0) kill(target_, SIGKILL);
  EXPECT_TRUE(AwaitTargetExit());
}

void Handover::CloseLinks() {
  source_link_.Close();
  target_link_.Close();
}

bool Handover::Reconnect(bool source, bool target) {
  while (source || target) {
    FakeLink link = daemon_->Accept();
    std::optional<rehome_hello> hello = link.AnswerHello();
    if (!hello) return false;
    const bool is_source = link.peer() == source_;
    bool* awaited = is_source ? &source : &target;
    if (!*awaited || (!is_source && link.peer() != target_)) return false;
    *awaited = false;
    (is_source ? source_role_ : target_role_) = hello->role;
    (is_source ? source_link_ : target_link_) = std::move(link);
  }
  return true;
}

}  // namespace rehome
