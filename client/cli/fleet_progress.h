// SPDX-License-Identifier: Apache-2.0
//
// What is seen while many guests are moved: lines, one line that is redrawn, or JSON events.
#ifndef REHOME_CLIENT_CLI_FLEET_PROGRESS_H_
#define REHOME_CLIENT_CLI_FLEET_PROGRESS_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/console.h"
#include "client/cli/fleet_summary.h"
#include "client/fleet.h"

namespace rehome {

// Thread-safe.
class FleetProgress : public FleetObserver {
 public:
  // First of all, once.
  virtual void Planned(const FleetPlan& plan, const FleetOptions& options) = 0;
  // After the first Ctrl-C.
  virtual void Stopping() = 0;
  // What is heard afterwards is not written. Idempotent.
  virtual void Finish() = 0;
  // After Finish(), once, with the results that the summary is made of: gives an end to each VM
  // that was shown to have started and has none yet.
  virtual void EndAll(const std::vector<FleetResult>& results) = 0;
};

// On console.err one line for each VM as it is done.
std::unique_ptr<FleetProgress> NewPlainFleetProgress(const Console& console);

// On console.err one line that is redrawn, with a clock, failures above it. REQUIRES: it is a
// terminal. Uses a thread of its own.
std::unique_ptr<FleetProgress> NewLiveFleetProgress(const Console& console);

// On console.out one JSON object for each event, each on a line (docs/fleet.md).
std::unique_ptr<FleetProgress> NewJsonFleetProgress(const Console& console);

// The last of these events.
void PrintFleetSummaryEvent(const FleetSummary& summary, const std::string& profile, bool dry_run,
                            const Console& console);

// "50 virtual machines to profile vmm-2: 38 to move, 11 already there, 1 under way; 4 at a time".
std::string FleetPlanText(const FleetPlan& plan, const FleetOptions& options);

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_FLEET_PROGRESS_H_
