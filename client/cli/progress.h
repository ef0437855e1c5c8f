// SPDX-License-Identifier: Apache-2.0
//
// What a person sees while a migration is under way. Written to console.err.
#ifndef REHOME_CLIENT_CLI_PROGRESS_H_
#define REHOME_CLIENT_CLI_PROGRESS_H_

#include <memory>
#include <string>

#include "client/cli/console.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

// Thread-safe.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void Update(const v1::Migration& migration) = 0;
  // A line about the way, not about the migration: "lost the daemon; trying again".
  virtual void Note(const std::string& text) = 0;
  // Draws for the last time; nothing is written afterwards. Idempotent.
  virtual void Finish() = 0;
};

// One line for each step when it is done: logs, pipes, other programs.
std::unique_ptr<Progress> NewPlainProgress(const Console& console);

// Steps that are rewritten in place, with a clock. REQUIRES: console.err is a terminal. Uses a
// thread of its own.
std::unique_ptr<Progress> NewLiveProgress(const Console& console);

// Nothing at all (--json).
std::unique_ptr<Progress> NewSilentProgress();

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_PROGRESS_H_
