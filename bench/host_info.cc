// SPDX-License-Identifier: Apache-2.0
#include "bench/host_info.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace rehome::bench {
namespace {

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

}  // namespace

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

uint64_t AvailableMemoryMib() {
  std::ifstream file("/proc/meminfo");
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    uint64_t kib = 0;
    if (name == "MemAvailable:" && file >> kib) return kib / 1024;
  }
  return 0;
}

std::string MachineLine() {
  utsname name = {};
  uname(&name);
  return absl::StrCat(CpuModel(), ", ", sysconf(_SC_NPROCESSORS_ONLN), " CPUs, Linux ",
                      name.release);
}

}  // namespace rehome::bench
