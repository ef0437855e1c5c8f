// SPDX-License-Identifier: Apache-2.0
//
// What the tests of FleetMove share: a daemon with many VMs, and somebody who listens.
#ifndef REHOME_CLIENT_FLEET_FIXTURE_H_
#define REHOME_CLIENT_FLEET_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include "client/fleet.h"
#include "client/testing/fake_fleet.h"
#include "client/testing/sample_records.h"
#include "client/testing/temp_socket.h"

namespace rehome {

class Heard final : public FleetObserver {
 public:
  void Started(const FleetResult& vm) override { started.push_back(vm.vm); }
  void Updated(const FleetResult& /*vm*/) override {}
  void Finished(const FleetResult& vm) override {
    finished.push_back(vm);
    const bool first = vm.kind == FleetResult::Kind::kFailed && !failed.try_wait();
    if (first) failed.count_down();
  }
  void Note(const std::string& text) override { notes.push_back(text); }

  std::vector<std::string> started, notes;
  std::vector<FleetResult> finished;
  std::latch failed{1};  // open once a VM has failed; of tests in which one does
};

class FleetTest : public ::testing::Test {
 protected:
  FleetTest()
      : daemon_(socket_.path()),
        client_({.socket_path = socket_.path(), .first_backoff = std::chrono::milliseconds(1)}) {
    options_.request.set_target_profile("vmm-2");
    options_.first_backoff = options_.last_backoff = std::chrono::milliseconds(5);
  }

  FleetMove& Prepare() {
    plan_ = *PlanFleet(&client_, options_.request.target_profile(), {});
    move_ = std::make_unique<FleetMove>(&client_, plan_, options_, &heard_);
    return *move_;
  }
  std::vector<FleetResult::Kind> Run() {
    Prepare().Run();
    return Kinds();
  }
  std::vector<FleetResult::Kind> Kinds() const {
    std::vector<FleetResult::Kind> kinds;
    for (const FleetResult& result : move_->Results()) kinds.push_back(result.kind);
    return kinds;
  }
  static grpc::Status Restarted() {
    return testing::SampleError(grpc::StatusCode::UNAVAILABLE, "RECOVERING", "just started");
  }
  static v1::Migration CutShort() {
    v1::Migration migration = testing::RolledBackMigration();
    google::rpc::ErrorInfo info;
    info.set_reason("DAEMON_RESTARTED");
    info.set_domain("rehome");
    migration.mutable_error()->clear_details();
    migration.mutable_error()->add_details()->PackFrom(info);
    return migration;
  }

  const testing::TempSocket socket_;
  testing::FakeFleet daemon_;
  MigrationClient client_;
  FleetOptions options_;
  Heard heard_;
  FleetPlan plan_;
  std::unique_ptr<FleetMove> move_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_FLEET_FIXTURE_H_
