// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/simulation.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/registry.h"
#include "kvmglue/status_reason.h"
#include "tests/simulator/ending.h"

namespace rehome::sim {
namespace {

constexpr char kBoot[] = "this-boot";
// A bound for the one real wait, that for the registry's worker.
constexpr std::chrono::minutes kWorkerBound{5};
// Longer than any hang that ends and than a target waits for a proof.
constexpr Micros kSettling = 150 * kSecond;
constexpr int kMaxResolves = 3;

class Simulation {
 public:
  explicit Simulation(const Plan& plan)
      : plan_(plan), world_(plan.seed), journal_(&daemon_, plan.sqlite_directory) {
    world_.verbose = plan.verbose;
    world_.guests = plan.guests;
    world_.faults = plan.faults;
    world_.before_step = [this](World& world, Process& process) {
      if (plan_.before_step != nullptr) plan_.before_step(world, process);
      if (cancelled_ || plan_.cancel_when == nullptr || !plan_.cancel_when(process)) return;
      cancelled_ = true;
      world.After(1, [this] { AskForCancel(); });
    };
    world_.active_migration = [this](const Process& process) { return ActiveOf(process); };
    daemon_.world = &world_;
    daemon_.rules = plan.rules;
    daemon_.store = plan.service_manager ? &store_ : nullptr;
    daemon_.dies_one_in = plan.daemon_dies_one_in;
    daemon_.deaths_left = plan.daemon_deaths;
    journal_.deaths = plan.daemon_dies_by_append;
    journal_.LoseAppend(plan.lost_append);
    factory_ = NewSimEffectsFactory(&daemon_);
  }

  Result Run();

 private:
  void Boot();
  void RunUntil(Micros limit);
  void AwaitWorker();
  bool AwaitEnd(size_t index);
  void Revive();
  void ScheduleClients();
  void Settle();
  std::string ActiveOf(const Process& process);

  void AskForMigration(size_t guest, const std::string& request_id);
  void AskForCancel();
  void AskForResolve();
  std::vector<Migration> Records();

  const Plan& plan_;
  World world_;
  SimStore store_;
  SimDaemon daemon_;
  SimJournal journal_;
  std::unique_ptr<EffectsFactory> factory_;
  std::unique_ptr<VmDirectory> vms_;
  std::unique_ptr<Registry> registry_;
  void Remember(const std::string& id);

  std::mutex ids_mutex_;
  std::deque<std::string> ids_;                  // in the order of admission
  std::map<std::string, std::string> answered_;  // by request_id, what a client was told
  std::atomic<bool> work_given_ = false;
  bool cancelled_ = false;
  int resolves_ = 0;
};

std::string Simulation::ActiveOf(const Process& process) {
  const absl::StatusOr<VmEntry> vm = vms_->Get(world_.guests[process.guest].vm_id);
  if (vm.ok()) return vm->active_migration;
  // Hidden: reserved for an unfinished migration of this very target, if any.
  return process.target.migration;
}

void Simulation::Boot() {
  daemon_.gate.Close();
  daemon_.dead = false;
  vms_ = std::make_unique<VmDirectory>();
  daemon_.vms = vms_.get();
  absl::Status status = journal_.Reopen();
  Registry::Options options;
  options.concurrent = 1;
  options.boot_id = kBoot;
  options.default_deadline = kMaxDeadline;
  absl::StatusOr<std::unique_ptr<Registry>> registry =
      status.ok() ? Registry::Create(std::move(options), &journal_, vms_.get(), factory_.get())
                  : status;
  if (!registry.ok()) {
    world_.Violate(absl::StrCat("the daemon does not start: ", registry.status().ToString()));
    daemon_.dead = true;
    return;
  }
  registry_ = *std::move(registry);
  world_.Log("the daemon starts");
  const std::set<std::string> unfinished = registry_->Unfinished();
  std::erase_if(store_, [&](const auto& entry) { return !unfinished.contains(entry.first); });
  for (const std::string& id : unfinished) Remember(id);
  world_.ConnectAll(vms_.get());
  status = registry_->StartRecovery();
  if (!status.ok()) world_.Violate(absl::StrCat("no recovery: ", status.ToString()));
  daemon_.gate.Open();
  if (!registry_->AwaitRecovered()) world_.Violate("the recovery does not end");
  AwaitWorker();
}

// In the end the worker has nothing to do. While it works, clients ask it for more, also about
// migrations that had ended undecided: then all are looked at again.
void Simulation::AwaitWorker() {
  daemon_.gate.Open();
  do {
    work_given_ = false;
    for (size_t i = 0; AwaitEnd(i); ++i) {
    }
  } while (work_given_);
  daemon_.gate.Close();
}

// False: there are not so many migrations.
bool Simulation::AwaitEnd(size_t index) {
  std::string id;
  {
    std::lock_guard<std::mutex> lock(ids_mutex_);
    if (index == ids_.size()) return false;
    id = ids_[index];
  }
  const auto record = registry_->WaitForChange(id, UINT64_MAX, kWorkerBound);
  // What a dead daemon said last is on no disk.
  if (!daemon_.dead && record.ok() && !IsTerminal(record->state)) {
    world_.Violate(absl::StrCat("migration ", index, " does not end in ", StepName(record->step)));
  }
  return true;
}

// A dead daemon is gone, the world goes on without it for a while, and the next one starts.
void Simulation::Revive() {
  daemon_.gate.Open();
  registry_.reset();
  daemon_.gate.Close();
  vms_.reset();
  const bool long_gone = world_.random.OneIn(4);
  const Micros back =
      world_.now() + world_.random.Between(1, long_gone ? 4 * kSecond : 100 * kMillisecond);
  while (world_.violation().empty() && world_.RunNext(back)) {
  }
  if (world_.violation().empty()) Boot();
}

void Simulation::RunUntil(Micros limit) {
  while (world_.violation().empty() && (world_.now() < limit || daemon_.dead)) {
    if (daemon_.dead) {
      Revive();
      continue;
    }
    world_.RunNext(limit);
    if (work_given_ && !daemon_.dead) AwaitWorker();
  }
}

void Simulation::Remember(const std::string& id) {
  std::lock_guard<std::mutex> lock(ids_mutex_);
  if (std::find(ids_.begin(), ids_.end(), id) == ids_.end()) ids_.push_back(id);
}

void Simulation::AskForMigration(size_t guest, const std::string& request_id) {
  if (daemon_.dead) return;
  MigrationRequest request;
  request.vm_id = world_.guests[guest].vm_id;
  request.target_profile = "new";
  request.request_id = request_id;
  const absl::StatusOr<Migration> record = registry_->Create(request);
  if (!record.ok()) {
    world_.Log(absl::StrCat("create ", request_id, ": ", ReasonOf(record.status())));
    return;
  }
  work_given_ = true;
  Remember(record->id);
  if (daemon_.dead) return;  // before it could answer
  const auto [known, first] = answered_.emplace(request_id, record->id);
  if (!first && known->second != record->id) {
    world_.Violate(absl::StrCat("request ", request_id, " was admitted twice"));
  }
}

void Simulation::AskForCancel() {
  if (daemon_.dead || ids_.empty()) return;
  const size_t which = world_.random.Below(ids_.size());
  world_.Log(absl::StrCat("cancel ", which));
  if (registry_->Cancel(ids_[which]).ok()) work_given_ = true;
}

void Simulation::AskForResolve() {
  if (daemon_.dead || ids_.empty()) return;
  const size_t which = world_.random.Below(ids_.size());
  if (!registry_->Resolve(ids_[which]).ok()) return;
  world_.Log(absl::StrCat("resolve ", which));
  work_given_ = true;
}

void Simulation::ScheduleClients() {
  for (int i = 0; i < plan_.migrations; ++i) {
    const size_t guest = world_.random.Below(world_.guests.size());
    const std::string request = absl::StrCat("request-", i);
    Micros when = world_.now() + world_.random.Between(1, kSecond) * (i == 0 ? 1 : 3);
    // A client that gets no answer asks again.
    for (int tries = plan_.noise ? 3 : 1; tries > 0; --tries) {
      world_.At(when, [this, guest, request] { AskForMigration(guest, request); });
      when += world_.random.Between(kMillisecond, 4 * kSecond);
    }
  }
  if (!plan_.noise) return;
  for (uint64_t i = world_.random.Below(4); i > 0; --i) {
    world_.After(world_.random.Between(1, 4 * kSecond), [this] { AskForCancel(); });
  }
  for (uint64_t i = world_.random.Below(4); i > 0; --i) {
    world_.After(world_.random.Between(kSecond, 40 * kSecond), [this] { AskForResolve(); });
  }
}

std::vector<Migration> Simulation::Records() {
  bool more = false;
  absl::StatusOr<std::vector<Migration>> records = registry_->List({}, 1000, "", &more);
  if (!records.ok()) world_.Violate(absl::StrCat("list: ", records.status().ToString()));
  return records.value_or(std::vector<Migration>());
}

// Nothing happens any more by chance. What nobody could tell is asked again: who hung may have come
// round.
void Simulation::Settle() {
  world_.faults = {};
  daemon_.deaths_left = 0;
  RunUntil(world_.now() + kSettling);
  for (int i = 0; i < kMaxResolves && world_.violation().empty(); ++i) {
    for (const Migration& record : Records()) {
      if (record.state != MigrationState::kIndeterminate || !world_.violation().empty()) continue;
      if (!registry_->Resolve(record.id).ok()) continue;
      ++resolves_;
      AwaitWorker();
    }
    RunUntil(world_.now() + 20 * kSecond);
  }
}

Result Simulation::Run() {
  for (size_t i = 0; i < world_.guests.size(); ++i) world_.StartVmm(i);
  for (const Micros when : plan_.daemon_dies_at) {
    world_.After(when, [this] {
      if (daemon_.deaths_left > 0) daemon_.Die("at its time");
    });
  }
  Boot();
  ScheduleClients();
  RunUntil(world_.now() + 30 * kSecond);
  if (world_.violation().empty()) Settle();
  Result result;
  if (world_.violation().empty()) {
    result.records = Records();
    CheckEnding(world_, result.records, store_, daemon_.deaths > 0 && !plan_.service_manager);
    for (const Migration& record : result.records) {
      const absl::StatusOr<Migration> kept = journal_.Read(record.id);
      if (!kept.ok() || kept->state != record.state) world_.Violate("the journal disagrees");
    }
  }
  daemon_.dead = true;
  daemon_.gate.Open();
  registry_.reset();
  result.violation = world_.violation();
  result.log = world_.log();
  result.appends = journal_.appends();
  result.deaths = daemon_.deaths;
  result.resolves = resolves_;
  result.steps = world_.steps;
  return result;
}

}  // namespace

Result Simulate(const Plan& plan) { return Simulation(plan).Run(); }

}  // namespace rehome::sim
