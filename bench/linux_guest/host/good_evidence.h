// SPDX-License-Identifier: Apache-2.0
//
// Evidence of a guest that lost nothing, for tests that then take something from it.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_GOOD_EVIDENCE_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_GOOD_EVIDENCE_H_

#include "bench/linux_guest/host/evidence.h"

namespace rehome::linux_guest {

inline constexpr uint64_t kGoodRun = 0xfeed'0123'4567'89ab;

// Two moves of a guest with two vCPUs; every promise is kept.
Evidence GoodEvidence();

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_GOOD_EVIDENCE_H_
