// SPDX-License-Identifier: Apache-2.0
#include "bench/linux_guest/host/progress.h"

#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"

namespace rehome::linux_guest {

std::string WhatStandsStill(const GuestAccount& before, const GuestAccount& now) {
  const std::optional<uint64_t> written_before = before.Number("disk_durable");
  const std::optional<uint64_t> written_now = now.Number("disk_durable");
  if (!written_before || !written_now || *written_now <= *written_before) {
    return "the disk stands still";
  }
  const uint64_t vcpus = before.Number("vcpus").value_or(0);
  if (vcpus == 0 || now.Number("vcpus") != vcpus) return "the guest does not tell its vCPUs";
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    const std::optional<ChainState> earlier = before.Chain(vcpu);
    const std::optional<ChainState> later = now.Chain(vcpu);
    if (!earlier || !later || later->steps <= earlier->steps) {
      return absl::StrCat("vCPU ", vcpu, " stands still");
    }
  }
  return "";
}

}  // namespace rehome::linux_guest
