// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_FAULT_OPERATION_H_
#define REHOME_KVMGLUE_SIM_FAULT_OPERATION_H_

#include <tuple>

namespace rehome {

// One kind of call: "OPEN" (OpenKvm), "MAP" (MapShared), or the name of an ioctl ("KVM_RUN"); an
// ioctl without a name here is its number ("0xaedf").
struct FaultOperation {
  enum class Kind { kOpen, kIoctl, kMap };
  Kind kind = Kind::kOpen;
  unsigned long request = 0;  // kIoctl

  friend bool operator==(const FaultOperation&, const FaultOperation&) = default;
  friend bool operator<(const FaultOperation& a, const FaultOperation& b) {
    return std::tie(a.kind, a.request) < std::tie(b.kind, b.request);
  }
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_FAULT_OPERATION_H_
