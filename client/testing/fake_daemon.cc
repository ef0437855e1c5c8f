// SPDX-License-Identifier: Apache-2.0
#include "client/testing/fake_daemon.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <limits>

namespace rehome::testing {
namespace {

constexpr size_t kNever = std::numeric_limits<size_t>::max();
constexpr std::chrono::seconds kPatience(10);

}  // namespace

class FakeDaemon::Migrations final : public v1::MigrationService::Service {
 public:
  explicit Migrations(FakeDaemon* daemon) : daemon_(daemon) {}

  grpc::Status CreateMigration(grpc::ServerContext* /*context*/,
                               const v1::CreateMigrationRequest* request,
                               v1::Migration* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    daemon_->created_.push_back(*request);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    *response = daemon_->history_.at(0);
    return grpc::Status::OK;
  }

  grpc::Status GetMigration(grpc::ServerContext* /*context*/,
                            const v1::GetMigrationRequest* /*request*/,
                            v1::Migration* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    *response = daemon_->history_.at(daemon_->current_);
    return grpc::Status::OK;
  }

  grpc::Status ListMigrations(grpc::ServerContext* /*context*/,
                              const v1::ListMigrationsRequest* request,
                              v1::ListMigrationsResponse* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    daemon_->listed_.push_back(*request);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    std::vector<v1::Migration> all = daemon_->history_;
    if (request->filter() == "state = INDETERMINATE") {
      std::erase_if(all, [](const v1::Migration& one) {
        return one.state() != v1::Migration::INDETERMINATE;
      });
    }
    const size_t begin = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    const size_t size = request->page_size() == 0 ? 50 : request->page_size();
    const size_t end = std::min(begin + size, all.size());
    for (size_t i = begin; i < end; ++i) *response->add_migrations() = all[i];
    if (end < all.size()) response->set_next_page_token(std::to_string(end));
    return grpc::Status::OK;
  }

  grpc::Status WatchMigration(grpc::ServerContext* context,
                              const v1::WatchMigrationRequest* request,
                              grpc::ServerWriter<v1::WatchMigrationResponse>* writer) override {
    std::unique_lock<std::mutex> lock(daemon_->mutex_);
    daemon_->watched_.push_back(*request);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    v1::WatchMigrationResponse heartbeat;
    heartbeat.mutable_heartbeat()->set_revision(1);
    writer->Write(heartbeat);
    while (true) {
      v1::WatchMigrationResponse response;
      *response.mutable_migration() = daemon_->history_.at(daemon_->current_);
      if (response.migration().revision() > request->resume_revision() &&
          !writer->Write(response)) {
        return grpc::Status::CANCELLED;
      }
      if (daemon_->current_ == daemon_->break_after_) {
        daemon_->break_after_ = kNever;
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken by the test");
      }
      if (daemon_->current_ + 1 == daemon_->history_.size()) return grpc::Status::OK;
      if (!AwaitTurn(context, &lock)) return grpc::Status::CANCELLED;
      ++daemon_->current_;
    }
  }

  grpc::Status CancelMigration(grpc::ServerContext* /*context*/,
                               const v1::CancelMigrationRequest* /*request*/,
                               v1::Migration* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    ++daemon_->cancelled_;
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    *response = daemon_->history_.back();
    return grpc::Status::OK;
  }

  grpc::Status ResolveMigration(grpc::ServerContext* /*context*/,
                                const v1::ResolveMigrationRequest* /*request*/,
                                v1::Migration* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    ++daemon_->resolved_;
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    daemon_->current_ = std::min(daemon_->current_ + 1, daemon_->history_.size() - 1);
    *response = daemon_->history_.at(daemon_->current_);
    return grpc::Status::OK;
  }

 private:
  // False: the client is gone or the test is over.
  bool AwaitTurn(grpc::ServerContext* context, std::unique_lock<std::mutex>* lock) {
    while (daemon_->current_ + 1 == daemon_->hold_before_ && !daemon_->stopping_) {
      daemon_->held_ = true;
      daemon_->changed_.notify_all();
      daemon_->changed_.wait_for(*lock, std::chrono::milliseconds(20));
      if (context->IsCancelled()) return false;
    }
    return !daemon_->stopping_;
  }

  FakeDaemon* const daemon_;
};

class FakeDaemon::Vms final : public v1::VirtualMachineService::Service {
 public:
  explicit Vms(FakeDaemon* daemon) : daemon_(daemon) {}

  grpc::Status GetVirtualMachine(grpc::ServerContext* /*context*/,
                                 const v1::GetVirtualMachineRequest* request,
                                 v1::VirtualMachine* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    for (const v1::VirtualMachine& vm : daemon_->vm_data_) {
      if (vm.name() != request->name()) continue;
      *response = vm;
      return grpc::Status::OK;
    }
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no " + request->name());
  }

  // One VM on each page, so that a client that does not page is found out.
  grpc::Status ListVirtualMachines(grpc::ServerContext* /*context*/,
                                   const v1::ListVirtualMachinesRequest* request,
                                   v1::ListVirtualMachinesResponse* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    const size_t at = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    if (at >= daemon_->vm_data_.size()) return grpc::Status::OK;
    *response->add_virtual_machines() = daemon_->vm_data_[at];
    if (at + 1 < daemon_->vm_data_.size()) {
      response->set_next_page_token(std::to_string(at + 1));
    }
    return grpc::Status::OK;
  }

 private:
  FakeDaemon* const daemon_;
};

class FakeDaemon::Hosts final : public v1::HostService::Service {
 public:
  explicit Hosts(FakeDaemon* daemon) : daemon_(daemon) {}

  grpc::Status GetHost(grpc::ServerContext* /*context*/, const v1::GetHostRequest* /*request*/,
                       v1::Host* response) override {
    const std::lock_guard<std::mutex> lock(daemon_->mutex_);
    if (grpc::Status failure = daemon_->TakeFailure(); !failure.ok()) return failure;
    *response = daemon_->host_data_;
    return grpc::Status::OK;
  }

 private:
  FakeDaemon* const daemon_;
};

FakeDaemon::FakeDaemon(const std::string& socket_path)
    : hold_before_(kNever),
      break_after_(kNever),
      migrations_(std::make_unique<Migrations>(this)),
      vms_(std::make_unique<Vms>(this)),
      hosts_(std::make_unique<Hosts>(this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_path, grpc::InsecureServerCredentials());
  builder.RegisterService(migrations_.get());
  builder.RegisterService(vms_.get());
  builder.RegisterService(hosts_.get());
  server_ = builder.BuildAndStart();
  if (server_ != nullptr) return;
  std::cerr << "the fake daemon cannot listen on " << socket_path << "\n";
  std::abort();
}

FakeDaemon::~FakeDaemon() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeDaemon::SetHost(const v1::Host& host) {
  const std::lock_guard<std::mutex> lock(mutex_);
  host_data_ = host;
}

void FakeDaemon::SetVms(const std::vector<v1::VirtualMachine>& vms) {
  const std::lock_guard<std::mutex> lock(mutex_);
  vm_data_ = vms;
}

void FakeDaemon::SetHistory(const std::vector<v1::Migration>& history) {
  const std::lock_guard<std::mutex> lock(mutex_);
  history_ = history;
  current_ = 0;
}

void FakeDaemon::HoldBefore(size_t record) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hold_before_ = record;
  held_ = false;
}

void FakeDaemon::Proceed() {
  const std::lock_guard<std::mutex> lock(mutex_);
  hold_before_ = kNever;
  changed_.notify_all();
}

bool FakeDaemon::AwaitHeld() {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [this] { return held_; });
}

void FakeDaemon::BreakWatchAfter(size_t record) {
  const std::lock_guard<std::mutex> lock(mutex_);
  break_after_ = record;
}

void FakeDaemon::FailNext(const std::vector<grpc::Status>& failures) {
  const std::lock_guard<std::mutex> lock(mutex_);
  failures_ = failures;
}

std::vector<v1::CreateMigrationRequest> FakeDaemon::created() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return created_;
}

std::vector<v1::ListMigrationsRequest> FakeDaemon::listed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return listed_;
}

std::vector<v1::WatchMigrationRequest> FakeDaemon::watched() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return watched_;
}

size_t FakeDaemon::resolved() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return resolved_;
}

size_t FakeDaemon::cancelled() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

grpc::Status FakeDaemon::TakeFailure() {
  if (failures_.empty()) return grpc::Status::OK;
  grpc::Status failure = failures_.front();
  failures_.erase(failures_.begin());
  return failure;
}

}  // namespace rehome::testing
