// SPDX-License-Identifier: Apache-2.0
//
// For tests on the real kernel: each asks first, and is skipped with the answer.
#ifndef REHOME_KVMGLUE_WHY_NO_KVM_H_
#define REHOME_KVMGLUE_WHY_NO_KVM_H_

#include <string>

namespace rehome {

// "" where tests can use /dev/kvm, else why they cannot.
std::string WhyNoKvm();

}  // namespace rehome

#endif  // REHOME_KVMGLUE_WHY_NO_KVM_H_
