// SPDX-License-Identifier: Apache-2.0
//
// In which order a source with a Linux guest asks the kernel for what it asks.
#include "vmm/reference/source_side.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kvmglue/scripted_kvm.h"
#include "kvmglue/status_reason.h"
#include "vmm/agent/handover_block.h"
#include "vmm/agent/protocol.h"
#include "vmm/reference/state_format.h"

namespace rehome {
namespace {

using Calls = std::vector<std::string>;

constexpr uint64_t kRamBytes = 1 << 20;
constexpr size_t kDisks = 2;
constexpr FormatRange kFormats = {kLinuxStateFormat, kLinuxStateFormat};
// Nobody waits for it: the devices have nothing in hand, and no target claims.
constexpr uint64_t kTimeoutNs = 20'000'000'000;

// Notes what an order is promised for, and answers as a ScriptedKvm. Thread-safe: the vCPU's thread
// and the test's ask it.
class NotedKvm final : public KvmSyscalls {
 public:
  SysResult OpenKvm() override { return kernel_.OpenKvm(); }
  SysResult Ioctl(BorrowedFd fd, unsigned long request, void* argument) override {
    if (request == KVM_RUN) {
      sched_yield();  // a guest that does nothing
      return {.value = -1, .error = EINTR};
    }
    const std::lock_guard lock(mutex_);
    Note(request, argument);
    if (!failing_.empty() && !calls_.empty() && calls_.back() == failing_) {
      return {.value = -1, .error = EINVAL};
    }
    return kernel_.Ioctl(fd, request, argument);
  }
  SysResult MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) override {
    return kernel_.MapShared(fd, length, offset, address);
  }
  const char* Name() const override { return "noted"; }

  // Refuses what is noted as `call`.
  void Fail(const std::string& call) {
    const std::lock_guard lock(mutex_);
    failing_ = call;
  }
  // What was noted since the last time.
  Calls Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(calls_, {});
  }

 private:
  void Note(unsigned long request, const void* argument) {
    if (request == KVM_IRQFD) {
      const auto* irqfd = static_cast<const kvm_irqfd*>(argument);
      const bool off = (irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN) != 0;
      calls_.push_back(absl::StrFormat("irqfd %d %s", irqfd->gsi, off ? "off" : "on"));
    } else if (request == KVM_IOEVENTFD) {
      const auto* ioeventfd = static_cast<const kvm_ioeventfd*>(argument);
      const bool off = (ioeventfd->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) != 0;
      calls_.push_back(absl::StrFormat("ioeventfd %#x %s", ioeventfd->addr, off ? "off" : "on"));
    } else if (request == KVM_GET_IRQCHIP && (calls_.empty() || calls_.back() != "irqchip")) {
      calls_.push_back("irqchip");  // its three parts
    }
  }

  std::mutex mutex_;
  testing::ScriptedKvm kernel_;
  std::string failing_;
  Calls calls_;
};

class NoListener final : public CrewListener {
 public:
  void OnGuestEnd(GuestEnd, const std::string& text) override { ADD_FAILURE() << text; }
  void OnFirstRun() override {}
};

UniqueFd Memfd(uint64_t bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.borrow().raw(), static_cast<off_t>(bytes)), 0);
  return fd;
}

class SourceSideTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ReceivedVm vm = {.config = {.vm_id = "linux", .ram_bytes = kRamBytes}};
    vm.config.guest = GuestKind::kLinux;
    vm.config.cpuid.emplace_back(sizeof(kvm_cpuid2));  // no entries
    vm.slots = PlanSlots(kRamBytes, 1);
    vm.memory.push_back(Memfd(kRamBytes));
    vm.console = *Console::Unplugged();
    for (size_t i = 0; i < kDisks; ++i) {
      vm.config.devices.push_back({.kind = DeviceKind::kBlock});
      vm.devices.push_back(Memfd(1 << 20));
    }
    auto machine = Machine::Prepare({.kernel = kernel_}, std::move(vm));
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    machine_->devices().Thaw();
    crew_ = std::make_unique<VcpuCrew>(machine_->vcpus(), machine_->devices(), listener_);
    ASSERT_TRUE(crew_->Start(nullptr).ok());
    const uint64_t capacity = MakeSource(TestHooks{});
    MapBlock(capacity);
    kernel_.Take();
  }
  // Armed; what the state may need.
  uint64_t MakeSource(const TestHooks& hooks) {
    source_ = std::make_unique<SourceSide>(*machine_, *crew_, kFormats, hooks);
    auto description = std::make_unique<rehome_vm>();
    source_->Describe(/*hold=*/true, *description);
    source_->Arm(kFormats.newest);
    return description->state_capacity;
  }
  void TearDown() override {
    if (block_.shared != nullptr) rehome_block_unmap(&block_);
  }
  void MapBlock(uint64_t state_capacity) {
    const rehome_block_params params = {.migration_id = "m-1",
                                        .state_capacity = state_capacity,
                                        .claim_timeout_ns = kTimeoutNs,
                                        .resolve_timeout_ns = kTimeoutNs,
                                        .fence_policy = REHOME_FENCE_AFTER_RESUME,
                                        .strategy = REHOME_STRATEGY_MAP};
    const UniqueFd fd(rehome_block_create(&params));
    ASSERT_EQ(rehome_block_map(fd.borrow().raw(), &block_), 0);
  }

  const Calls kNotificationsOff = {"ioeventfd 0xd0000050 off", "ioeventfd 0xd0001050 off"};
  const Calls kInterruptsOffThenSaved = {"irqfd 5 off", "irqfd 6 off", "irqchip"};
  const Calls kAllOn = {"ioeventfd 0xd0000050 on", "irqfd 5 on", "ioeventfd 0xd0001050 on",
                        "irqfd 6 on"};

  rehome_block block_ = {};
  NotedKvm kernel_;
  NoListener listener_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<VcpuCrew> crew_;
  std::unique_ptr<SourceSide> source_;
};

TEST_F(SourceSideTest, EventfdsGoBeforeTheIrqchipIsSavedAndComeBackWhenTheGuestGoesOnHere) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    ASSERT_TRUE(source_->Quiesce(block_).ok());
    EXPECT_EQ(kernel_.Take(), kNotificationsOff) << "outside of the blackout";
    const absl::StatusOr<uint64_t> size = source_->PauseAndSave(block_);
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(kernel_.Take(), kInterruptsOffThenSaved);
    source_->Resume();
    EXPECT_EQ(kernel_.Take(), kAllOn);
    source_->Arm(kFormats.newest);
  }
}

TEST_F(SourceSideTest, EventfdsComeBackWhenTheGuestWasNotPaused) {
  ASSERT_TRUE(source_->Quiesce(block_).ok());
  kernel_.Take();
  source_->Resume();
  EXPECT_EQ(kernel_.Take(), (Calls{"ioeventfd 0xd0000050 on", "ioeventfd 0xd0001050 on"}));
}

TEST_F(SourceSideTest, AnEventfdThatDoesNotGoEndsTheAttemptAndTheDevicesRun) {
  kernel_.Fail(kNotificationsOff.back());
  EXPECT_FALSE(source_->Quiesce(block_).ok());
  EXPECT_EQ(kernel_.Take(), (Calls{kNotificationsOff[0], kNotificationsOff[1], kAllOn[0]}));
  DeviceState state;
  EXPECT_EQ(ReasonOf(machine_->devices().Save(state)), "DEVICE_RUNNING");
}

TEST_F(SourceSideTest, TheStateIsAnnouncedBeforeThePauseIsOverUnlessThatIsLeftOut) {
  for (const bool left_out : {false, true}) {
    TestHooks hooks;
    if (left_out) hooks.without.Add(BlackoutStep::kAnnounce);
    rehome_block_unmap(&block_);
    MapBlock(MakeSource(hooks));
    ASSERT_TRUE(source_->Quiesce(block_).ok());
    const absl::StatusOr<uint64_t> size = source_->PauseAndSave(block_);
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(rehome_block_wait_source_ready(&block_, /*deadline_ns=*/1, /*spin_ns=*/0) == 0,
              !left_out);
    source_->Resume();
  }
}

}  // namespace
}  // namespace rehome
