// SPDX-License-Identifier: Apache-2.0
//
// A guest that neither side can run: the world of effects_world.h after its blackout went wrong,
// with new targets for rescues.
#ifndef REHOME_DAEMON_TESTING_RESCUE_FIXTURE_H_
#define REHOME_DAEMON_TESTING_RESCUE_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/machine.h"
#include "daemon/process_identity.h"
#include "daemon/testing/effects_world.h"

namespace rehome {

inline constexpr char kState[] = "registers and devices";
// Tells the first target's memory file from the source's: the inode is the same.
inline constexpr int kFlagOfFirstTargets = O_APPEND;
inline constexpr uint64_t kAtOnce = 1;  // a deadline that has passed
inline constexpr uint64_t kBoundNs = 20'000'000'000;

inline uint64_t Soon() { return rehome_monotonic_ns() + kBoundNs; }

// A VMM of the next attempt.
struct NewTarget {
  WaitingChild child;
  UniqueFd vm{memfd_create("vm", MFD_CLOEXEC)};
  std::shared_ptr<FakeVmmLink> link;
};

class RescueTest : public testing::Test {
 protected:
  ~RescueTest() override {
    if (old_.shared != nullptr) rehome_block_unmap(&old_);
    if (new_.shared != nullptr) rehome_block_unmap(&new_);
  }

  // Both sides armed, the source's state saved, the verdict walked to `verdict`. The record is the
  // one of the step RESCUING.
  void Strand(uint32_t verdict, bool moves = false) {
    // With LINK no mapping of the target is looked at.
    world_.host.capabilities.push_back({.name = "guest_memfd_link", .available = true});
    world_.source->script.describe = [this](const std::string&, bool) {
      VmDescription vm = Vm(world_.vm);
      vm.state_format = writes_newest_;
      vm.state_format_oldest = writes_oldest_;
      return vm;
    };
    world_.spoil_target = [this](VmDescription& vm) {
      vm.layout.slots[0].flags = kMemslotGuestMemfd;
      vm.vm = *Duplicate(first_target_vm_.borrow());
      // As after LINK: the same memory, by a file of its own.
      const std::string path = "/proc/self/fd/" + std::to_string(world_.memory.borrow().raw());
      vm.memory.clear();
      if (first_target_lacks_its_file_) return;
      vm.memory.emplace_back(open(path.c_str(), O_RDWR | kFlagOfFirstTargets | O_CLOEXEC));
    };
    record_ = world_.Armed(FencePolicy::kAfterResume);
    ASSERT_EQ(record_.strategy, Strategy::kLink);
    if (moves) record_.strategy = Strategy::kLinkMove;
    old_ = world_.MapBlock();
    memcpy(old_.state, kState, sizeof(kState));
    ASSERT_EQ(rehome_block_set_source_ready(&old_, sizeof(kState)), 0);
    EffectsWorld::WalkTo(old_, verdict);
    record_.rescue = {.attempts = 1, .dead_target = record_.target};
    world_.launcher.launch = [this] { return LaunchNext(); };
  }
  VmDescription Vm(const UniqueFd& vm) const {
    VmDescription described = world_.Describe();
    described.layout.slots[0].flags = kMemslotGuestMemfd;
    described.vm = *Duplicate(vm.borrow());
    return described;
  }
  absl::StatusOr<LaunchedVmm> LaunchNext() {
    targets_.push_back(std::make_unique<NewTarget>());
    NewTarget& next = *targets_.back();
    const ProcessIdentity id = *IdentifyProcess(next.child.Pidfd().borrow());
    next.link = std::make_shared<FakeVmmLink>(id, world_.target->hello());
    next.link->set_pidfd(next.child.Pidfd());
    next.link->script.prepare = [this, &next](const VmmLink::PrepareRequest& request) {
      offered_.push_back(Identify(request.source->vm.borrow())->id);
      offered_memory_.clear();
      for (const UniqueFd& file : request.source->memory) offered_memory_.push_back(Of(file));
      if (request.source->memory.empty()) return absl::StatusOr<VmDescription>(NoMemory());
      offered_flags_ = fcntl(request.source->memory[0].borrow().raw(), F_GETFL);
      offered_format_ = request.source->state_format;
      world_.block_fd = *Duplicate(request.block);
      if (!prepared_.ok()) return absl::StatusOr<VmDescription>(prepared_);
      return absl::StatusOr<VmDescription>(Vm(next.vm));
    };
    next.link->script.arm_target = [](const std::string&) { return absl::OkStatus(); };
    world_.target = next.link;
    LaunchedVmm launched;
    launched.pidfd = next.child.Pidfd();
    launched.process = id;
    return launched;
  }
  static absl::Status NoMemory() { return absl::InvalidArgumentError("PREPARE without memory"); }
  // Both effects up to where the new target has been armed; `act` is the VMM's part, done when it
  // has been given the state.
  Outcome Rescue(std::function<void(rehome_block&)> act) {
    Outcome built = world_.Perform(Effect::kBuildRescue, record_);
    EXPECT_EQ(built.event, Event::kTargetPrepared) << built.cause.message;
    record_ = built.update;
    MapNew();
    std::thread vmm([&] {
      if (rehome_block_wait_source_ready(&new_, Soon(), 0) == 0) act(new_);
    });
    Outcome outcome = world_.Perform(Effect::kHandOverToRescue, record_);
    vmm.join();
    record_ = outcome.update;
    return outcome;
  }
  void MapNew() {
    if (new_.shared != nullptr) rehome_block_unmap(&new_);
    new_ = world_.MapBlock();
  }
  InodeId Of(const UniqueFd& fd) const { return Identify(fd.borrow())->id; }
  bool Stored(const std::string& name) const {
    return std::any_of(world_.store.stored.begin(), world_.store.stored.end(),
                       [&](const NamedFd& item) { return item.name == name; });
  }

  EffectsWorld world_;
  UniqueFd first_target_vm_{memfd_create("vm", MFD_CLOEXEC)};
  std::vector<std::unique_ptr<NewTarget>> targets_;
  uint32_t writes_oldest_ = 1, writes_newest_ = 1;  // state formats of the source
  bool first_target_lacks_its_file_ = false;        // of the memory
  std::vector<InodeId> offered_;                    // VMs that came with PREPARE
  std::vector<InodeId> offered_memory_;             // files that came with the last
  int offered_flags_ = 0;                           // of the first of these
  uint32_t offered_format_ = 0;                     // and the state's
  absl::Status prepared_ = absl::OkStatus();        // an error: what PREPARE answers
  Migration record_;
  rehome_block old_{}, new_{};
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_RESCUE_FIXTURE_H_
