// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/vmm_harness.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kvmglue/why_no_kvm.h"
#include "vmm/agent/rehome_agent.h"

namespace rehome {
namespace {

std::string Binary(int version) { return "vmm/reference/rehome-vmm-" + std::to_string(version); }

bool Moves(uint32_t strategy) {
  return strategy == REHOME_STRATEGY_LINK_MOVE || strategy == REHOME_STRATEGY_MAP_MOVE;
}

uint64_t PatienceEnds() { return rehome_monotonic_ns() + kHarnessPatienceMs * 1'000'000ull; }

rehome_vm_fd* FindFd(rehome_vm& vm, uint32_t role) {
  return std::find_if(vm.fds, vm.fds + vm.fd_count,
                      [role](const auto& fd) { return fd.entry.role == role; });
}

bool Failed(const std::string& what) {
  ADD_FAILURE() << what;
  return false;
}

}  // namespace

// ---- VmmProcess

void VmmTest::SetUp() {
  const std::string why = kernel_ == "kvm" ? WhyNoKvm() : "";
  if (!why.empty()) GTEST_SKIP() << why;
}

VmmProcess::VmmProcess(const std::vector<std::string>& arguments, UniqueFd inherited) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    if (inherited.valid()) {
      const int fd = inherited.borrow().raw();
      fcntl(fd, F_SETFD, 0);
      setenv("REHOME_AGENT_FD", std::to_string(fd).c_str(), 1);
    }
    execv(argv[0], argv.data());
    _exit(127);
  }
  pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
}

VmmProcess::VmmProcess(VmmProcess&& other) noexcept { *this = std::move(other); }

VmmProcess& VmmProcess::operator=(VmmProcess&& other) noexcept {
  End();
  pid_ = std::exchange(other.pid_, 0);
  pidfd_ = std::move(other.pidfd_);
  return *this;
}

VmmProcess::~VmmProcess() { End(); }

void VmmProcess::End() {
  if (pid_ == 0) return;
  Signal(SIGKILL);
  AwaitExit();
}

void VmmProcess::Signal(int number) const {
  if (pid_ != 0) kill(pid_, number);
}

std::optional<int> VmmProcess::AwaitExit() {
  pollfd poller = {pidfd(), POLLIN, 0};
  if (pid_ == 0 || poll(&poller, 1, kHarnessPatienceMs) != 1) return std::nullopt;
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool FlipBit(int fd, uint64_t offset) {
  constexpr uint64_t kPage = 4096;
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                    static_cast<off_t>(offset / kPage * kPage));
  if (page == MAP_FAILED) return false;
  static_cast<uint8_t*>(page)[offset % kPage] ^= 1;
  munmap(page, kPage);
  return true;
}

// ---- VmmHarness

VmmHarness::VmmHarness(const std::string& kernel, int version,
                       const std::vector<std::string>& options)
    : kernel_(kernel),
      description_(std::make_unique<rehome_vm>()),
      answer_(std::make_unique<rehome_vm>()) {
  char directory[] = "/tmp/rehome-vmm-XXXXXX";
  EXPECT_NE(mkdtemp(directory), nullptr);
  directory_ = directory;
  console_path_ = directory_ + "/console";
  std::vector<std::string> arguments = {Binary(version),
                                        "--kernel=" + kernel,
                                        "--vm-id=guest",
                                        "--console=" + console_path_,
                                        "--agent-socket=" + daemon_.path(),
                                        "--check-on-exit"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  source_ = VmmProcess(arguments, UniqueFd());
  source_link_ = daemon_.Accept();
  EXPECT_TRUE(source_link_.AnswerHello().has_value());
  EXPECT_TRUE(source_link_.AnswerRegister().has_value());
}

VmmHarness::~VmmHarness() {
  DropBlock();
  target_ = VmmProcess();
  source_ = VmmProcess();
  std::filesystem::remove_all(directory_);
}

void VmmHarness::DropBlock() {
  if (block_fd_.valid()) rehome_block_unmap(&block_);
  block_fd_.Reset();
}

bool VmmHarness::Launch(const Hop& hop) {
  hop_ = hop;
  migration_ = "m-" + std::to_string(++hops_);
  if (source_link_.Describe(migration_, true, description_.get()) != 0u) {
    return Failed("DESCRIBE: " + source_link_.refusal_text());
  }
  Keep(*description_, source_escrow_);
  return MakeBlock(hop) && StartTarget(hop);
}

void VmmHarness::Keep(rehome_vm& vm, std::vector<UniqueFd>& escrow) {
  escrow.clear();
  for (uint32_t i = 0; i < vm.fd_count; ++i) {
    auto copy = Duplicate(BorrowedFd(vm.fds[i].fd));
    EXPECT_TRUE(copy.ok());
    escrow.push_back(*std::move(copy));
    vm.fds[i].fd = escrow.back().borrow().raw();
  }
}

bool VmmHarness::MakeBlock(const Hop& hop) {
  DropBlock();
  const rehome_block_params params = {.migration_id = migration_.c_str(),
                                      .state_capacity = description_->state_capacity,
                                      .claim_timeout_ns = hop.claim_timeout_ms * 1'000'000,
                                      .resolve_timeout_ns = hop.resolve_timeout_ms * 1'000'000,
                                      .fence_policy = hop.fence_policy,
                                      .strategy = hop.strategy};
  block_fd_ = UniqueFd(rehome_block_create(&params));
  if (rehome_block_map(block_fd_.borrow().raw(), &block_) != 0) return Failed("handover block");
  return true;
}

bool VmmHarness::StartTarget(const Hop& hop) {
  FakePair pair = MakeFakePair();
  std::vector<std::string> arguments = {Binary(hop.version), "--target", "--kernel=" + kernel_,
                                        "--check-on-exit", "--agent-socket=" + daemon_.path()};
  arguments.insert(arguments.end(), hop.target_options.begin(), hop.target_options.end());
  target_ = VmmProcess(arguments, UniqueFd(pair.agent_fd));
  target_link_ = std::move(pair.daemon);
  const auto hello = target_link_.AnswerHello();
  if (!hello) return Failed("the target did not say HELLO");
  target_hello_ = *hello;
  ChooseStateFormat(hop);
  return true;
}

// As a daemon does it; one that gets it wrong is a test's matter.
void VmmHarness::ChooseStateFormat(const Hop& hop) {
  const uint32_t newest = std::min(description_->state_format, target_hello_.state_format_read_max);
  description_->state_format = hop.state_format == 0 ? newest : hop.state_format;
  description_->state_format_oldest = 0;
}

std::optional<uint32_t> VmmHarness::Prepare() {
  rehome_prepare terms = {};
  std::strcpy(terms.migration_id, migration_.c_str());
  terms.strategy = hop_.strategy;
  terms.fence_policy = hop_.fence_policy;
  auto source = std::make_unique<rehome_vm>(*description_);
  if (!Moves(hop_.strategy)) {
    rehome_vm_fd* end = source->fds + source->fd_count;
    source->fd_count = static_cast<uint32_t>(
        std::remove_if(source->fds, end,
                       [](const auto& fd) { return fd.entry.role == REHOME_FD_VM; }) -
        source->fds);
  }
  source->fds[source->fd_count++] = {{REHOME_FD_BLOCK, 0, ""}, block_fd_.borrow().raw()};
  const auto status = target_link_.Prepare(terms, *source, answer_.get());
  if (status == 0u) Keep(*answer_, target_escrow_);
  return status;
}

bool VmmHarness::Arm() {
  if (answer_->layout_digest != description_->layout_digest) return Failed("layouts differ");
  if (target_link_.ArmTarget(migration_, source_.pidfd()) != 0u) {
    return Failed("ARM_TARGET: " + target_link_.refusal_text());
  }
  if (source_link_.ArmSource(migration_, description_->layout_digest, block_fd_.borrow().raw(),
                             target_.pidfd(), description_->state_format) != 0u) {
    return Failed("ARM_SOURCE: " + source_link_.refusal_text());
  }
  return true;
}

bool VmmHarness::Start() {
  if (source_link_.Order(REHOME_MSG_START, migration_) == 0u) return true;
  return Failed("START: " + source_link_.refusal_text());
}

bool VmmHarness::AwaitVerdict(uint32_t verdict) {
  if (rehome_block_wait_verdict_in(&block_, REHOME_VERDICT_BIT(verdict), PatienceEnds()) == 0) {
    return true;
  }
  return Failed("verdict is " + std::to_string(rehome_block_verdict(&block_)));
}

bool VmmHarness::Finish() {
  if (!target_link_.AwaitEvent(REHOME_EVENT_FIRST_RUN)) return Failed("no FIRST_RUN");
  const auto registered = target_link_.AnswerRegister();
  if (!registered || registered->migration_id != migration_) return Failed("no REGISTER");
  // A source that was fenced already is gone.
  if (source_.running() && hop_.fence_policy != REHOME_FENCE_BEFORE_RESUME) {
    if (!source_link_.AwaitEvent(REHOME_EVENT_HANDED_OVER)) return Failed("no HANDED_OVER");
    if (source_link_.Order(REHOME_MSG_RELEASE, migration_) != 0u) return Failed("RELEASE");
    const auto exit_code = source_.AwaitExit();
    if (exit_code != 0)
      return Failed("the source exited " + std::to_string(exit_code.value_or(-1)));
  }
  BecomeOwner();
  return true;
}

void VmmHarness::BecomeOwner() {
  source_ = std::move(target_);
  source_link_ = std::move(target_link_);
  for (auto* escrow : {&source_escrow_, &target_escrow_, &dead_target_escrow_}) escrow->clear();
}

bool VmmHarness::Move(const Hop& hop) {
  if (!Launch(hop)) return false;
  if (Prepare() != 0u) return Failed("PREPARE: " + target_link_.refusal_text());
  if (!Arm() || !Start()) return false;
  if (hop.fence_policy == REHOME_FENCE_BEFORE_RESUME) {
    if (!AwaitVerdict(REHOME_VERDICT_COMMITTED)) return false;
    source_.Signal(SIGKILL);
    if (!source_.AwaitExit()) return Failed("the source does not die");
    rehome_block_set_fence_proven(&block_);
  }
  return AwaitVerdict(REHOME_VERDICT_RUNNING) && Finish();
}

bool VmmHarness::RestartDaemon() {
  source_link_.Close();
  target_link_.Close();
  for (int i = 0; i < 2; ++i) {
    FakeLink link = daemon_.Accept();
    if (!link.AnswerHello()) return Failed("no HELLO");
    if (link.peer() == source_.pid()) {
      source_link_ = std::move(link);
    } else if (link.peer() == target_.pid()) {
      target_link_ = std::move(link);
    }
  }
  return (source_link_.open() && target_link_.open()) || Failed("not both came back");
}

bool VmmHarness::LaunchRescuer(const Hop& hop, int vm_fd) {
  const size_t vm = FindFd(*description_, REHOME_FD_VM) - description_->fds;
  description_->fds[vm].fd = vm_fd >= 0 ? vm_fd : source_escrow_[vm].borrow().raw();
  ForgetTarget();
  hop_ = hop;
  if (!MakeBlock(hop) || !StartTarget(hop)) return false;
  if (Prepare() != 0u) return Failed("PREPARE: " + target_link_.refusal_text());
  // What was said to be dead must be believed before it is shown to be.
  if (!source_.running()) rehome_block_set_fence_proven(&block_);
  if (target_link_.ArmTarget(migration_, source_.pidfd()) == 0u) return true;
  return Failed("ARM_TARGET: " + target_link_.refusal_text());
}

bool VmmHarness::StartRescue(const Hop& hop, bool from_source) {
  for (const uint32_t open : {REHOME_VERDICT_CLAIMED, REHOME_VERDICT_COMMITTED}) {
    rehome_block_move_verdict(&block_, open, REHOME_VERDICT_ABORTED);
  }
  const std::vector<uint8_t> state(block_.state, block_.state + rehome_block_state_size(&block_));
  dead_target_escrow_ = std::move(target_escrow_);
  if (!LaunchRescuer(hop, from_source ? -1 : FindFd(*answer_, REHOME_FD_VM)->fd)) return false;
  std::copy(state.begin(), state.end(), block_.state);
  return rehome_block_set_source_ready(&block_, state.size()) == 0 || Failed("source ready");
}

bool VmmHarness::Rescue(const Hop& hop, bool from_source) {
  if (!StartRescue(hop, from_source) || !AwaitVerdict(REHOME_VERDICT_RUNNING)) return false;
  if (!target_link_.AwaitEvent(REHOME_EVENT_FIRST_RUN)) return Failed("no FIRST_RUN");
  const auto registered = target_link_.AnswerRegister();
  if (!registered || registered->migration_id != migration_) return Failed("no REGISTER");
  if (source_.running()) {
    if (source_link_.Order(REHOME_MSG_RELEASE, migration_) != 0u) return Failed("RELEASE");
    if (source_.AwaitExit() != 0) return Failed("the stranded source did not exit");
  }
  BecomeOwner();
  return true;
}

bool VmmHarness::AwaitRollback() {
  if (!source_link_.AwaitEvent(REHOME_EVENT_RESUMED)) return Failed("the source did not resume");
  ForgetTarget();
  return true;
}

void VmmHarness::ForgetTarget() {
  target_link_.Close();
  target_ = VmmProcess();
}

std::optional<int> VmmHarness::EndGuest() {
  source_.Signal(SIGTERM);
  return source_.AwaitExit();
}

std::array<uint64_t, REHOME_PHASE_COUNT> VmmHarness::phases() const {
  std::array<uint64_t, REHOME_PHASE_COUNT> phases = {};
  rehome_block_read_phases(&block_, phases.data());
  return phases;
}

}  // namespace rehome
