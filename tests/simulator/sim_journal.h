// SPDX-License-Identifier: Apache-2.0
//
// The journal of a daemon that may die at any of its appends. Every record goes through the bytes
// that the real one writes.
#ifndef REHOME_TESTS_SIMULATOR_SIM_JOURNAL_H_
#define REHOME_TESTS_SIMULATOR_SIM_JOURNAL_H_

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/journal.h"
#include "tests/simulator/sim_daemon.h"

namespace rehome::sim {

// Counted from 1, over all daemons of a run.
struct DeathAtAppend {
  size_t append = 0;
  bool after = false;  // it is on disk, but nothing of what it announces has been done
};

class SimJournal : public Journal {
 public:
  // With `directory` the real journal is behind it, else memory.
  SimJournal(SimDaemon* daemon, const std::string& directory)
      : daemon_(*daemon), directory_(directory) {}

  absl::Status Append(const Migration& record) override;
  absl::Status Load(const std::function<void(const Migration&)>& visit) override;
  absl::StatusOr<Migration> Read(const std::string& id) override;

  // For the next daemon, as if it opened the file.
  absl::Status Reopen();
  // A bug to be found: this append is acknowledged and lost. 0: none.
  void LoseAppend(size_t number) { lost_ = number; }

  std::vector<DeathAtAppend> deaths;
  size_t appends() const { return appends_; }

 private:
  absl::Status Store(const Migration& record);

  SimDaemon& daemon_;
  const std::string directory_;
  std::unique_ptr<Journal> sqlite_;
  std::map<std::string, std::pair<uint64_t, std::string>> records_;  // revision, bytes
  std::vector<std::string> order_;
  size_t appends_ = 0;
  size_t lost_ = 0;
};

}  // namespace rehome::sim

#endif  // REHOME_TESTS_SIMULATOR_SIM_JOURNAL_H_
