// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/sim_daemon.h"

#include "absl/strings/str_cat.h"

namespace rehome::sim {

void Gate::Close() {
  std::lock_guard<std::mutex> lock(mutex_);
  open_ = false;
  owner_ = std::this_thread::get_id();
}

void Gate::Open() {
  std::lock_guard<std::mutex> lock(mutex_);
  open_ = true;
  changed_.notify_all();
}

void Gate::Pass() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return open_ || owner_ == std::this_thread::get_id(); });
}

void SimDaemon::Die(const std::string& how) {
  if (dead) return;
  dead = true;
  ++deaths;
  --deaths_left;
  world->Log(absl::StrCat("the daemon dies ", how));
  world->DisconnectAll();
}

}  // namespace rehome::sim
