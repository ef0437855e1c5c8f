// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_OS_KVM_SYSCALLS_H_
#define REHOME_KVMGLUE_OS_KVM_SYSCALLS_H_

#include <memory>

#include "kvmglue/kvm_syscalls.h"

namespace rehome {

// The real kernel. Never fails and opens nothing: whether there is a /dev/kvm shows at OpenKvm().
std::unique_ptr<KvmSyscalls> OpenRealKvm();

}  // namespace rehome

#endif  // REHOME_KVMGLUE_OS_KVM_SYSCALLS_H_
