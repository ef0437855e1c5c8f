// SPDX-License-Identifier: Apache-2.0
//
// What a figure was taken on.
#ifndef REHOME_BENCH_HOST_INFO_H_
#define REHOME_BENCH_HOST_INFO_H_

#include <cstdint>
#include <string>

namespace rehome::bench {

// The load average of the last minute; 0 if it cannot be read.
double LoadAverage();

// "AMD EPYC 9R14, 2 CPUs, Linux 6.18.44": one line.
std::string MachineLine();

// MemAvailable of /proc/meminfo; 0 if it cannot be read.
uint64_t AvailableMemoryMib();

}  // namespace rehome::bench

#endif  // REHOME_BENCH_HOST_INFO_H_
