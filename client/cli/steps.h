// SPDX-License-Identifier: Apache-2.0
//
// A migration as a person follows it: five steps, each with what is known of it. Derived from the
// record alone, so that live view, plain lines and a look back a week later say the same.
#ifndef REHOME_CLIENT_CLI_STEPS_H_
#define REHOME_CLIENT_CLI_STEPS_H_

#include <string>
#include <string_view>
#include <vector>

#include "client/cli/console.h"
#include "rehome/v1/migration.pb.h"

namespace rehome {

struct StepView {
  enum class Mark { kWaiting, kActive, kDone, kFailed };
  Mark mark = Mark::kWaiting;
  std::string title;
  std::string detail;  // "" while nothing is known
};

// Preconditions, target VMM, memory, hand-over, fence; in this order. `console` says how to write
// units.
std::vector<StepView> StepsOf(const v1::Migration& migration, const Console& console);

// Who runs the guest now, as what follows "the guest": "runs on the source: rehome-vmm 1.0, pid
// 123".
std::string GuestStatus(const v1::Migration& migration);

// "rehome-vmm 1.0, pid 123".
std::string ProcessText(const v1::VmmProcess& process);

// The id at the end of a resource name.
std::string IdOf(std::string_view name);

// "FENCE_BEFORE_RESUME" and the like in words: "fence before resume".
std::string FencePolicyText(v1::Migration::FencePolicy policy);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_STEPS_H_
