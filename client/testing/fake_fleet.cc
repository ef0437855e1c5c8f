// SPDX-License-Identifier: Apache-2.0
#include "client/testing/fake_fleet.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "client/testing/sample_records.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace rehome::testing {
namespace {

constexpr std::chrono::seconds kPatience(10);
constexpr char kEveryVm[] = "";

std::string VmName(const std::string& vm) { return "virtualMachines/" + vm; }

bool IsEnd(const v1::Migration& migration) {
  return migration.state() == v1::Migration::SUCCEEDED ||
         migration.state() == v1::Migration::FAILED ||
         migration.state() == v1::Migration::CANCELLED ||
         migration.state() == v1::Migration::INDETERMINATE;
}

// With the migration that is in the way as the resource concerned.
grpc::Status InTheWay(grpc::StatusCode code, const std::string& reason, const std::string& name) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(name + " is in the way");
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("rehome");
  status.add_details()->PackFrom(info);
  google::rpc::ResourceInfo resource;
  resource.set_resource_type("Migration");
  resource.set_resource_name(name);
  status.add_details()->PackFrom(resource);
  return grpc::Status(code, status.message(), status.SerializeAsString());
}

grpc::Status TakeFrom(std::deque<grpc::Status>* refusals) {
  if (refusals->empty()) return grpc::Status::OK;
  grpc::Status first = refusals->front();
  refusals->pop_front();
  return first;
}

}  // namespace

class FakeFleet::Migrations final : public v1::MigrationService::Service {
 public:
  explicit Migrations(FakeFleet* fleet) : fleet_(fleet) {}

  grpc::Status CreateMigration(grpc::ServerContext* /*context*/,
                               const v1::CreateMigrationRequest* request,
                               v1::Migration* response) override {
    std::unique_lock<std::mutex> lock(fleet_->mutex_);
    ++fleet_->asked_;
    if (request->validate_only()) fleet_->Hold(Call::kCheck, &lock);
    if (grpc::Status error = TakeFrom(&fleet_->refusals_); !error.ok()) return error;
    if (request->validate_only()) {
      fleet_->checked_.push_back(*request);
      v1::Migration checked;
      checked.set_vm(request->vm());
      *response = fleet_->EndOf(checked);
      response->clear_name();
      return grpc::Status::OK;
    }
    for (v1::Migration& one : fleet_->migrations_) {
      if (one.request_id() == request->request_id()) {
        *response = one;
        return grpc::Status::OK;
      }
    }
    const auto vm = fleet_->vms_.find(request->vm());
    if (vm == fleet_->vms_.end()) {
      return SampleError(grpc::StatusCode::NOT_FOUND, "VM_NOT_FOUND", "no " + request->vm());
    }
    if (const std::string other = vm->second.active_migration(); !other.empty()) {
      return InTheWay(grpc::StatusCode::ABORTED, "MIGRATION_IN_PROGRESS", other);
    }
    *response = fleet_->Admit(*request);
    if (!std::exchange(fleet_->lose_next_, false)) return grpc::Status::OK;
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the answer is lost");
  }

  grpc::Status GetMigration(grpc::ServerContext* /*context*/,
                            const v1::GetMigrationRequest* request,
                            v1::Migration* response) override {
    const std::lock_guard<std::mutex> lock(fleet_->mutex_);
    if (!fleet_->read_error_.ok()) return fleet_->read_error_;
    v1::Migration* const migration = fleet_->Find(request->name());
    if (migration == nullptr) return NotFound(request->name());
    *response = *migration;
    return grpc::Status::OK;
  }

  grpc::Status ListMigrations(grpc::ServerContext* /*context*/,
                              const v1::ListMigrationsRequest* request,
                              v1::ListMigrationsResponse* response) override {
    const std::lock_guard<std::mutex> lock(fleet_->mutex_);
    const bool unresolved = request->filter() == "state = INDETERMINATE";
    for (auto one = fleet_->migrations_.rbegin(); one != fleet_->migrations_.rend(); ++one) {
      const bool wanted = unresolved ? one->state() == v1::Migration::INDETERMINATE
                                     : request->filter() == "vm = \"" + one->vm() + "\"";
      if (wanted) *response->add_migrations() = *one;
    }
    return grpc::Status::OK;
  }

  grpc::Status WatchMigration(grpc::ServerContext* context,
                              const v1::WatchMigrationRequest* request,
                              grpc::ServerWriter<v1::WatchMigrationResponse>* writer) override {
    std::unique_lock<std::mutex> lock(fleet_->mutex_);
    if (grpc::Status error = TakeFrom(&fleet_->watch_refusals_); !error.ok()) {
      // Whoever was turned away asks next, and finds it ended.
      if (v1::Migration* one = fleet_->Find(request->name()); one != nullptr) fleet_->Finish(one);
      return error;
    }
    v1::Migration* migration = fleet_->Find(request->name());
    if (migration == nullptr) return NotFound(request->name());
    ++fleet_->watched_;
    fleet_->changed_.notify_all();
    v1::WatchMigrationResponse response;
    *response.mutable_migration() = *migration;
    if (!writer->Write(response)) return grpc::Status::CANCELLED;
    while (fleet_->IsHeld(*migration)) {
      if (fleet_->away_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
      fleet_->changed_.wait_for(lock, std::chrono::milliseconds(20));
      // The deque may have grown meanwhile, which moves nothing.
    }
    fleet_->Finish(migration);
    *response.mutable_migration() = *migration;
    writer->Write(response);
    return grpc::Status::OK;
  }

 private:
  static grpc::Status NotFound(const std::string& name) {
    return SampleError(grpc::StatusCode::NOT_FOUND, "MIGRATION_NOT_FOUND", "no " + name);
  }

  FakeFleet* const fleet_;
};

class FakeFleet::Vms final : public v1::VirtualMachineService::Service {
 public:
  explicit Vms(FakeFleet* fleet) : fleet_(fleet) {}

  // One VM on each page, so that a client that does not page is found out.
  grpc::Status ListVirtualMachines(grpc::ServerContext* /*context*/,
                                   const v1::ListVirtualMachinesRequest* request,
                                   v1::ListVirtualMachinesResponse* response) override {
    std::unique_lock<std::mutex> lock(fleet_->mutex_);
    fleet_->Hold(Call::kList, &lock);
    const auto at = fleet_->vms_.upper_bound(request->page_token());
    if (at == fleet_->vms_.end()) return grpc::Status::OK;
    *response->add_virtual_machines() = at->second;
    if (std::next(at) != fleet_->vms_.end()) response->set_next_page_token(at->first);
    return grpc::Status::OK;
  }

 private:
  FakeFleet* const fleet_;
};

class FakeFleet::Hosts final : public v1::HostService::Service {
 public:
  grpc::Status GetHost(grpc::ServerContext* /*context*/, const v1::GetHostRequest* /*request*/,
                       v1::Host* response) override {
    *response = SampleHost();
    v1::VmmProfile* const other = response->add_vmm_profiles();
    other->set_name("vmm-3");
    other->set_enabled(true);
    return grpc::Status::OK;
  }
};

FakeFleet::FakeFleet(const std::string& socket_path)
    : socket_path_(socket_path),
      migration_service_(std::make_unique<Migrations>(this)),
      vm_service_(std::make_unique<Vms>(this)),
      host_service_(std::make_unique<Hosts>()) {
  Listen();
}

FakeFleet::~FakeFleet() { GoAway(); }

void FakeFleet::Listen() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_path_, grpc::InsecureServerCredentials());
  builder.RegisterService(migration_service_.get());
  builder.RegisterService(vm_service_.get());
  builder.RegisterService(host_service_.get());
  server_ = builder.BuildAndStart();
  if (server_ != nullptr) return;
  std::cerr << "the fake fleet cannot listen on " << socket_path_ << "\n";
  std::abort();
}

void FakeFleet::GoAway() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    away_ = true;
    changed_.notify_all();
  }
  // Watches end by themselves, with UNAVAILABLE as the real daemon's do.
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kPatience);
  server_.reset();
}

void FakeFleet::ComeBack() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    away_ = false;
  }
  Listen();
}

void FakeFleet::AddVms(int count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < count; ++i) {
    v1::VirtualMachine vm = SampleVm();
    vm.set_name(VmName("vm-" + std::to_string(vms_.size())));
    vm.mutable_process()->set_pid(next_pid_++);
    vms_[vm.name()] = vm;
  }
}

void FakeFleet::Disconnect(const std::string& vm) {
  const std::lock_guard<std::mutex> lock(mutex_);
  vms_.erase(VmName(vm));
}

void FakeFleet::EndWith(const std::string& vm, const std::vector<v1::Migration>& ends) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ends_[VmName(vm)].assign(ends.begin(), ends.end());
}

void FakeFleet::Hold(const std::string& vm) {
  const std::lock_guard<std::mutex> lock(mutex_);
  held_.insert(vm.empty() ? kEveryVm : VmName(vm));
}

void FakeFleet::Release(const std::string& vm) {
  const std::lock_guard<std::mutex> lock(mutex_);
  held_.erase(vm.empty() ? kEveryVm : VmName(vm));
  changed_.notify_all();
}

void FakeFleet::HoldCalls(Call call) {
  const std::lock_guard<std::mutex> lock(mutex_);
  held_calls_[call] = 0;
}

bool FakeFleet::AwaitHeldCalls(Call call, size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return held_calls_[call] >= count; });
}

void FakeFleet::Hold(Call call, std::unique_lock<std::mutex>* lock) {
  if (!held_calls_.contains(call)) return;
  ++held_calls_[call];
  changed_.notify_all();
  changed_.wait(*lock, [this] { return away_; });
}

bool FakeFleet::AwaitUnderWay(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return under_way_ == count; });
}

bool FakeFleet::AwaitWatched(size_t count) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return watched_ >= count; });
}

std::string FakeFleet::Start(const std::string& vm, const std::string& profile) {
  const std::lock_guard<std::mutex> lock(mutex_);
  v1::CreateMigrationRequest request;
  request.set_vm(VmName(vm));
  request.set_target_profile(profile);
  request.set_request_id("of somebody else for " + vm);
  const std::string name = Admit(request).name();
  started_.pop_back();
  return name.substr(name.rfind('/') + 1);
}

void FakeFleet::RefuseNext(const std::vector<grpc::Status>& errors) {
  const std::lock_guard<std::mutex> lock(mutex_);
  refusals_.assign(errors.begin(), errors.end());
}

void FakeFleet::RefuseWatches(const std::vector<grpc::Status>& errors) {
  const std::lock_guard<std::mutex> lock(mutex_);
  watch_refusals_.assign(errors.begin(), errors.end());
}

void FakeFleet::FailReads(const grpc::Status& error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  read_error_ = error;
}

void FakeFleet::StayTaken(const std::string& vm, const std::string& migration_id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  vms_.at(VmName(vm)).set_active_migration("migrations/" + migration_id);
}

void FakeFleet::LoseNextAnswer() {
  const std::lock_guard<std::mutex> lock(mutex_);
  lose_next_ = true;
}

std::vector<v1::CreateMigrationRequest> FakeFleet::started() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return started_;
}

std::vector<v1::CreateMigrationRequest> FakeFleet::checked() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return checked_;
}

size_t FakeFleet::asked() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return asked_;
}

size_t FakeFleet::most_at_once() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return most_at_once_;
}

v1::Migration* FakeFleet::Find(const std::string& name) {
  for (v1::Migration& one : migrations_) {
    if (one.name() == name) return &one;
  }
  return nullptr;
}

v1::Migration& FakeFleet::Admit(const v1::CreateMigrationRequest& request) {
  v1::Migration migration = SampleHistory().front();
  migration.set_name("migrations/m-" + std::to_string(migrations_.size()));
  migration.set_vm(request.vm());
  migration.set_target_profile(request.target_profile());
  migration.set_request_id(request.request_id());
  *migration.mutable_source() = vms_.at(request.vm()).process();
  vms_.at(request.vm()).set_active_migration(migration.name());
  started_.push_back(request);
  most_at_once_ = std::max(most_at_once_, ++under_way_);
  migrations_.push_back(migration);
  changed_.notify_all();
  return migrations_.back();
}

// How `migration` ends: as it is, but for what is told of its end.
v1::Migration FakeFleet::EndOf(const v1::Migration& migration) {
  std::deque<v1::Migration>& ends = ends_[migration.vm()];
  v1::Migration end = ends.empty() ? SampleHistory().back() : ends.front();
  if (!ends.empty()) ends.pop_front();
  end.set_name(migration.name());
  end.set_vm(migration.vm());
  end.set_target_profile(migration.target_profile());
  end.set_request_id(migration.request_id());
  *end.mutable_source() = migration.source();
  if (end.has_target()) end.mutable_target()->set_pid(next_pid_++);
  return end;
}

bool FakeFleet::IsHeld(const v1::Migration& migration) const {
  return !IsEnd(migration) && (held_.contains(kEveryVm) || held_.contains(migration.vm()));
}

void FakeFleet::Finish(v1::Migration* migration) {
  if (IsEnd(*migration)) return;
  *migration = EndOf(*migration);
  --under_way_;
  changed_.notify_all();
  const auto vm = vms_.find(migration->vm());
  if (vm == vms_.end()) return;
  vm->second.clear_active_migration();
  if (migration->guest_owner() == v1::Migration::TARGET) {
    *vm->second.mutable_process() = migration->target();
  }
}

}  // namespace rehome::testing
