// SPDX-License-Identifier: Apache-2.0
//
// Whether a guest goes on, from two of its accounts.
#ifndef REHOME_BENCH_LINUX_GUEST_HOST_PROGRESS_H_
#define REHOME_BENCH_LINUX_GUEST_HOST_PROGRESS_H_

#include <string>

#include "bench/linux_guest/guest_account.h"

namespace rehome::linux_guest {

// The first part of the guest that has done nothing between the two accounts: "the disk stands
// still" (no further record is durable) or "vCPU 1 stands still" (the busy loop of each vCPU has to
// go on). What one of the accounts does not tell has done nothing. "" if all of it went on.
std::string WhatStandsStill(const GuestAccount& before, const GuestAccount& now);

}  // namespace rehome::linux_guest

#endif  // REHOME_BENCH_LINUX_GUEST_HOST_PROGRESS_H_
