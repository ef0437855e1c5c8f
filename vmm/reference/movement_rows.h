// SPDX-License-Identifier: Apache-2.0
//
// What a VM is and how it moves: the rows of the tests with real VMMs.
#ifndef REHOME_VMM_REFERENCE_MOVEMENT_ROWS_H_
#define REHOME_VMM_REFERENCE_MOVEMENT_ROWS_H_

#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "vmm/agent/protocol.h"

namespace rehome {

struct MovementRow {
  const char* name;
  std::vector<std::string> options;  // of the VMM
  uint32_t strategy;
  uint32_t fence_policy;
  bool on_kvm;  // a stock kernel has it, too
};

// `rows`, then each strategy with MOVE; without those that `kernel` ("kvm" or "sim") lacks.
inline std::vector<MovementRow> WithMovingRows(std::vector<MovementRow> rows,
                                               const std::string& kernel) {
  const MovementRow kMoving[] = {
      {"LinkMoveSwProtected",
       {"--vm-type=sw-protected", "--vcpus=2", "--memories=2"},
       REHOME_STRATEGY_LINK_MOVE,
       REHOME_FENCE_KERNEL,
       false},
      {"LinkMoveTdx", {"--vm-type=tdx"}, REHOME_STRATEGY_LINK_MOVE, REHOME_FENCE_KERNEL, false},
      {"MapMoveSev", {"--vm-type=sev"}, REHOME_STRATEGY_MAP_MOVE, REHOME_FENCE_KERNEL, false},
      {"MapMoveSevEs",
       {"--vm-type=sev-es", "--vcpus=2"},
       REHOME_STRATEGY_MAP_MOVE,
       REHOME_FENCE_KERNEL,
       false},
  };
  rows.insert(rows.end(), std::begin(kMoving), std::end(kMoving));
  if (kernel == "kvm") std::erase_if(rows, [](const MovementRow& row) { return !row.on_kvm; });
  return rows;
}

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_MOVEMENT_ROWS_H_
