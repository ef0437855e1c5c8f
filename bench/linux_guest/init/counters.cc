// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/init/counters.h"

#include <cerrno>
#include <cstring>

namespace rehome::linux_guest {

void Complaints::Add(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (count_++ == 0) first_ = text;
}

std::string Complaints::first() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return first_;
}

std::string WithErrno(const std::string& text) { return text + ": " + strerror(errno); }

}  // namespace rehome::linux_guest
