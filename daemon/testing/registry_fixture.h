// SPDX-License-Identifier: Apache-2.0
//
// A registry over fakes, for its tests.
#ifndef REHOME_DAEMON_TESTING_REGISTRY_FIXTURE_H_
#define REHOME_DAEMON_TESTING_REGISTRY_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/machine.h"
#include "daemon/registry.h"
#include "daemon/testing/fake_effects.h"
#include "daemon/testing/fake_vmm_link.h"
#include "daemon/testing/memory_journal.h"
#include "kvmglue/status_reason.h"

namespace rehome {

inline constexpr std::chrono::milliseconds kBound{30'000};
inline constexpr std::chrono::milliseconds kNoWait{0};
inline constexpr char kBoot[] = "this-boot";

class RegistryTest : public testing::Test {
 protected:
  RegistryTest() { Start(); }

  void Start(Registry::Options options = {}) {
    options.boot_id = kBoot;
    registry_.reset();
    auto registry = Registry::Create(std::move(options), &journal_, &vms_, &effects_);
    ASSERT_TRUE(registry.ok()) << registry.status();
    registry_ = *std::move(registry);
  }
  // A VM whose source process is `pid`.
  std::string AddVm(const std::string& vm_id, int32_t pid = 10) {
    VmEntry vm;
    vm.vm_id = vm_id;
    vm.vcpu_count = 2;
    vm.process = {pid, 1, 0};
    links_.push_back(std::make_shared<FakeVmmLink>(vm.process));
    EXPECT_TRUE(vms_.Register(vm, "", links_.back()).ok());
    return vm_id;
  }
  static MigrationRequest Request(const std::string& vm_id, const std::string& request_id = "") {
    MigrationRequest request;
    request.vm_id = vm_id;
    request.target_profile = "new";
    request.request_id = request_id;
    request.requested_by = "uid=0 pid=1";
    return request;
  }
  // The id of an admitted migration.
  std::string MustCreate(const MigrationRequest& request) {
    const auto migration = registry_->Create(request);
    EXPECT_TRUE(migration.ok()) << migration.status();
    return migration.ok() ? migration->id : "";
  }
  std::string CreateError(const MigrationRequest& request) {
    return ReasonOf(registry_->Create(request).status());
  }
  // The terminal record of `id`.
  Migration AwaitEnd(const std::string& id) {
    uint64_t seen = 0;
    for (size_t i = 0; i <= kMaxTransitions; ++i) {
      const auto record = registry_->WaitForChange(id, seen, kBound);
      if (!record.ok() || IsTerminal(record->state)) return record.value_or(Migration{});
      seen = record->revision;
    }
    ADD_FAILURE() << id << " does not end";
    return {};
  }
  std::vector<Migration> ListAll(const MigrationFilter& filter = {}) {
    bool more = false;
    auto page = registry_->List(filter, 1000, "", &more);
    EXPECT_TRUE(page.ok()) << page.status();
    EXPECT_FALSE(more);
    return page.value_or(std::vector<Migration>{});
  }

  VmDirectory vms_;
  FakeEffects effects_;
  MemoryJournal journal_;
  std::vector<std::shared_ptr<FakeVmmLink>> links_;
  std::unique_ptr<Registry> registry_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_REGISTRY_FIXTURE_H_
