// SPDX-License-Identifier: Apache-2.0
//
// The one wait of tests for what nobody announces: what /proc says of a process, what a daemon's
// list has.
#ifndef REHOME_TESTS_HARNESS_EVENTUALLY_H_
#define REHOME_TESTS_HARNESS_EVENTUALLY_H_

#include <chrono>
#include <functional>

namespace rehome::harness {

// Looks again every few milliseconds until it holds; false: not within `patience`. It is asked once
// at least. `holds` runs in the caller's thread.
bool Eventually(std::chrono::milliseconds patience, const std::function<bool()>& holds);

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_EVENTUALLY_H_
