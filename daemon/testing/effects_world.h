// SPDX-License-Identifier: Apache-2.0
//
// What the effects act on, with two real processes (so that pidfds, kills and exits are real), a
// real handover block and memfds as guest memory; agents, launcher and the search of /proc are
// scripted.
#ifndef REHOME_DAEMON_TESTING_EFFECTS_WORLD_H_
#define REHOME_DAEMON_TESTING_EFFECTS_WORLD_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/effect_context.h"
#include "daemon/escrow_store.h"
#include "daemon/fd_kinds.h"
#include "daemon/testing/fake_vmm_link.h"
#include "daemon/vm_directory.h"

namespace rehome {

// A child that waits to be killed; reaped when destroyed.
class WaitingChild {
 public:
  WaitingChild();
  ~WaitingChild();
  UniqueFd Pidfd() const;
  pid_t pid() const { return pid_; }
  // SIGKILL, and waits until its pidfd says so.
  void Kill() const;
  bool alive() const;

 private:
  pid_t pid_ = -1;
};

class ScriptedFence : public Fence {
 public:
  absl::Status Kill(BorrowedFd pidfd) override;
  absl::StatusOr<uint64_t> AwaitTasksStopped(BorrowedFd pidfd, const ProcessIdentity& process,
                                             std::chrono::milliseconds timeout) override;
  absl::StatusOr<uint64_t> AwaitExit(BorrowedFd pidfd, std::chrono::milliseconds timeout) override;
  // Finds every inode with the first of `allowed`, and with `foreign`.
  absl::StatusOr<HolderSearch> FindHolders(const std::vector<InodeId>& inodes,
                                           const std::vector<ProcessIdentity>& allowed) override;

  absl::Status search_status;
  std::function<void()> on_search;
  bool allowed_holds = true;
  std::vector<InodeHolder> foreign;
  int kills = 0;
  std::vector<InodeId> searched;
};

class ScriptedLauncher : public Launcher {
 public:
  absl::StatusOr<LaunchedVmm> Launch(const std::string& profile,
                                     const std::string& migration_id) override;
  absl::StatusOr<VmmProfile> Profile(const std::string& name) const override;

  VmmProfile profile{.name = "next", .command = {"/bin/true"}};
  std::function<absl::StatusOr<LaunchedVmm>()> launch;
};

// A service manager's store, as far as a migration sees it.
class ScriptedStore : public EscrowStore {
 public:
  bool supported() const override { return true; }
  bool all_came_back() const override { return whole; }
  absl::Status Put(const std::string&, const std::vector<EscrowItem>& items) override {
    if (!put_status.ok()) return put_status;
    for (const EscrowItem& item : items) {
      stored.push_back({item.name, *Duplicate(item.fd)});
    }
    return absl::OkStatus();
  }
  absl::Status Remove(const std::string&) override {
    if (!remove_status.ok()) return remove_status;
    stored.clear();
    removed_for_sure = false;
    return absl::OkStatus();
  }
  absl::Status Barrier() override {
    removed_for_sure = stored.empty();
    return absl::OkStatus();
  }
  std::vector<NamedFd> Take(const std::string&) override { return std::move(stored); }
  std::vector<std::string> restored() const override { return {}; }
  size_t DropUnclaimed(const std::set<std::string>&) override { return 0; }
  size_t stored_fds() const override { return stored.size(); }

  std::vector<NamedFd> stored;
  absl::Status put_status, remove_status;
  bool removed_for_sure = false;  // a barrier has followed
  bool whole = true;              // what came back could be told apart
};

struct EffectsWorld {
  EffectsWorld();

  // The description of the one VM of this world, "vm-1", on `memory`.
  VmDescription Describe() const;
  Migration NewRecord(FencePolicy policy = FencePolicy::kUnspecified) const;
  // Performs preflight to arm; the record after it.
  Migration Armed(FencePolicy policy = FencePolicy::kUnspecified);
  Outcome Perform(Effect effect, const Migration& record);
  // What the effects act on, for a test that calls one of them itself, with an escrow of its own.
  EffectDependencies Dependencies();
  // The verdict block that the last PREPARE handed out, mapped as a VMM would.
  rehome_block MapBlock() const;
  // Walks the verdict from OPEN to `verdict` along the legal edges.
  static void WalkTo(rehome_block& block, uint32_t verdict);
  // From where it is.
  static void WalkOn(rehome_block& block, uint32_t verdict);

  WaitingChild source_child, target_child;
  UniqueFd memory;
  UniqueFd vm;  // stands for the VM of the source, and of its first target
  UniqueFd block_fd;
  HostCapabilities host;
  VmDirectory vms;
  ScriptedFence fence;
  ScriptedLauncher launcher;
  ScriptedStore store;
  std::unique_ptr<FdKinds> fd_kinds = NewSimFdKinds();
  bool may_miss_records = false;  // the journal
  std::shared_ptr<FakeVmmLink> source, target;
  // Changes the target's answer to PREPARE.
  std::function<void(VmDescription&)> spoil_target;
  std::unique_ptr<Interrupt> interrupt;
  std::unique_ptr<EffectsFactory> factory;
  std::unique_ptr<MigrationEffects> effects;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_EFFECTS_WORLD_H_
