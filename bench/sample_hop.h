// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_BENCH_SAMPLE_HOP_H_
#define REHOME_BENCH_SAMPLE_HOP_H_

#include "bench/hop_account.h"

namespace rehome::bench {

// A hop of which everything can be claimed; tests spoil it.
HopFacts GoodHop();

}  // namespace rehome::bench

#endif  // REHOME_BENCH_SAMPLE_HOP_H_
