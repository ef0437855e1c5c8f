// SPDX-License-Identifier: Apache-2.0
//
// Threads of the registry, and many callers at once.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "daemon/registry.h"
#include "daemon/testing/registry_fixture.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

size_t Threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

TEST_F(RegistryTest, ThreadsComeWithTheWorkAndNotBefore) {
  registry_.reset();
  const size_t without = Threads();
  Start();
  EXPECT_EQ(Threads(), without);
  AddVm("db");
  AwaitEnd(MustCreate(Request("db")));
  const size_t after_one = Threads();
  EXPECT_GE(after_one, without + 2) << "one worker, one timer";
  for (int i = 0; i < 20; ++i) AwaitEnd(MustCreate(Request("db")));
  EXPECT_EQ(Threads(), after_one) << "one after the other needs no second worker";
}

TEST_F(RegistryTest, MigrationsOfSeveralVmsRunAtOnceUpToTheLimit) {
  Registry::Options options;
  options.concurrent = 3;
  Start(std::move(options));
  effects_.HoldAt(Effect::kArm);
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i)
    ids.push_back(MustCreate(Request(AddVm(absl::StrCat("vm-", i), i + 1))));
  effects_.AwaitHeld(Effect::kArm, 3);
  EXPECT_EQ(effects_.created(), 3u);
  effects_.Release(Effect::kArm);
  for (const std::string& id : ids) EXPECT_EQ(AwaitEnd(id).state, MigrationState::kSucceeded);
}

// Callers, cancellers, watchers and listers at once. Afterwards every migration has ended, and at
// no time were two of one VM under way.
TEST_F(RegistryTest, AMixOfCallersLeavesEveryMigrationEndedAndEveryVmFree) {
  constexpr int kVms = 4, kCallers = 6, kRounds = 40;
  std::mutex mutex;
  std::set<std::string> handing_over;
  effects_.On(Effect::kHandOver, [&](const Migration& record, ::rehome::Interrupt& interrupt) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      EXPECT_TRUE(handing_over.insert(record.request.vm_id).second);
    }
    std::this_thread::yield();
    std::lock_guard<std::mutex> lock(mutex);
    handing_over.erase(record.request.vm_id);
    return interrupt.raised() ? FailureOutcome(Event::kVerdictAborted, reason::kInterrupted, record)
                              : HappyOutcome(Effect::kHandOver, record);
  });
  for (int i = 0; i < kVms; ++i) AddVm(absl::StrCat("vm-", i), i + 1);
  std::atomic<int> admitted = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        const auto migration =
            registry_->Create(Request(absl::StrCat("vm-", (caller + round) % kVms)));
        if (!migration.ok()) {
          EXPECT_EQ(ReasonOf(migration.status()), reason::kMigrationInProgress);
          continue;
        }
        ++admitted;
        if (round % 3 == 0) registry_->Cancel(migration->id).status().IgnoreError();
        bool more = false;
        EXPECT_TRUE(registry_->List({}, 10, "", &more).ok());
        if (round % 2 == 0) AwaitEnd(migration->id);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  registry_->Stop();
  const std::vector<Migration> all = ListAll();
  EXPECT_EQ(all.size(), static_cast<size_t>(admitted));
  for (const Migration& record : all) EXPECT_TRUE(IsTerminal(record.state)) << record.id;
  for (const VmEntry& vm : vms_.List()) EXPECT_EQ(vm.active_migration, "");
  EXPECT_EQ(effects_.alive(), 0u);
}

}  // namespace
}  // namespace rehome
