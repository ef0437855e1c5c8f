// SPDX-License-Identifier: Apache-2.0
//
// For tests: real rehome-vmm processes, and the part of rehomed that leads them through a
// migration.
#ifndef REHOME_VMM_REFERENCE_VMM_HARNESS_H_
#define REHOME_VMM_REFERENCE_VMM_HARNESS_H_

#include <gtest/gtest.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kvmglue/fd.h"
#include "vmm/agent/fake_daemon.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"

namespace rehome {

// Bound of every wait for something that must happen.
inline constexpr int kHarnessPatienceMs = 60'000;

// A test with VMMs on `kernel`, "kvm" or "sim"; skipped where it is KVM and this machine has none.
class VmmTest : public testing::Test {
 protected:
  explicit VmmTest(std::string kernel) : kernel_(std::move(kernel)) {}
  void SetUp() override;

 private:
  const std::string kernel_;
};

// A child process; killed and reaped when destroyed.
class VmmProcess {
 public:
  VmmProcess() = default;
  // Starts `arguments`; `inherited` (may be invalid) is descriptor $REHOME_AGENT_FD in the child.
  VmmProcess(const std::vector<std::string>& arguments, UniqueFd inherited);
  VmmProcess(VmmProcess&& other) noexcept;
  VmmProcess& operator=(VmmProcess&& other) noexcept;
  ~VmmProcess();

  bool running() const { return pid_ != 0; }
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.borrow().raw(); }
  void Signal(int number) const;
  // The exit code, or 128 + signal; nothing if it goes on for too long.
  std::optional<int> AwaitExit();

 private:
  void End();

  pid_t pid_ = 0;
  UniqueFd pidfd_;
};

// How to move a guest.
struct Hop {
  int version = 2;  // of the target
  // That the source is told to write; 0: the newest that both know.
  uint32_t state_format = 0;
  uint32_t strategy = REHOME_STRATEGY_MAP;
  uint32_t fence_policy = REHOME_FENCE_AFTER_RESUME;
  std::vector<std::string> target_options;
  uint64_t claim_timeout_ms = 20'000;
  uint64_t resolve_timeout_ms = 20'000;
};

// Flips a bit at `offset` of a file through a mapping of its own.
bool FlipBit(int fd, uint64_t offset);

// One guest and the VMMs that it goes through. Each step returns false, after an ADD_FAILURE that
// says why, if something is not as it must be.
class VmmHarness {
 public:
  // `kernel`: "kvm" or "sim". Starts an owner of that version with further options.
  VmmHarness(const std::string& kernel, int version, const std::vector<std::string>& options);
  ~VmmHarness();

  // A whole migration: afterwards the target is the owner, and the old one has exited with 0.
  bool Move(const Hop& hop);

  // The same in steps. Launch: DESCRIBE, target started and greeted. Prepare: the status of its
  // answer.
  bool Launch(const Hop& hop);
  std::optional<uint32_t> Prepare();
  bool Arm();
  bool Start();
  bool AwaitVerdict(uint32_t verdict);
  uint32_t verdict() const { return rehome_block_verdict(&block_); }
  bool Finish();  // from verdict RUNNING on
  // After a failed migration: the target is gone, the guest runs on the source again.
  bool AwaitRollback();
  void ForgetTarget();

  // What the daemon does when the target is dead and nobody can run the guest: a new target gets
  // the dead one's VM to move from (the source's where `from_source`) and a copy of the state.
  // Rescue() is a whole one: afterwards the new target is the owner. StartRescue() ends with the
  // state's announcement.
  bool Rescue(const Hop& hop, bool from_source);
  bool StartRescue(const Hop& hop, bool from_source);

  // The daemon dies and comes back: both VMMs have connected again and said HELLO.
  bool RestartDaemon();

  // SIGTERM to the owner; its exit code says whether the guest is intact (--check-on-exit).
  std::optional<int> EndGuest();

  FakeLink& source() { return source_link_; }
  FakeLink& target() { return target_link_; }
  VmmProcess& source_process() { return source_; }
  VmmProcess& target_process() { return target_; }
  rehome_vm& description() { return *description_; }
  rehome_vm& answer() { return *answer_; }
  const rehome_hello& target_hello() const { return target_hello_; }
  // Of the last migration, ns; 0: not reached.
  std::array<uint64_t, REHOME_PHASE_COUNT> phases() const;
  const std::string& migration() const { return migration_; }
  const rehome_block& block() const { return block_; }
  int block_fd() const { return block_fd_.borrow().raw(); }
  const std::string& console_path() const { return console_path_; }

 private:
  void DropBlock();
  bool MakeBlock(const Hop& hop);
  bool StartTarget(const Hop& hop);
  void ChooseStateFormat(const Hop& hop);
  // Up to ARM_TARGET; moves from `vm_fd`, or from the source's VM if that is negative.
  bool LaunchRescuer(const Hop& hop, int vm_fd);
  void BecomeOwner();  // the target
  // Duplicates: what a connection has received is closed with the next message.
  void Keep(rehome_vm& vm, std::vector<UniqueFd>& escrow);

  const std::string kernel_;
  std::string directory_, console_path_;
  FakeDaemon daemon_;
  VmmProcess source_, target_;
  FakeLink source_link_, target_link_;
  rehome_hello target_hello_ = {};
  std::unique_ptr<rehome_vm> description_, answer_;
  std::vector<UniqueFd> source_escrow_, target_escrow_;  // of those two
  // MOVE compares bindings with the dead target's, which are there as long as its files are open.
  std::vector<UniqueFd> dead_target_escrow_;
  Hop hop_;
  int hops_ = 0;
  std::string migration_;
  UniqueFd block_fd_;
  rehome_block block_ = {};
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VMM_HARNESS_H_
