// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/why_no_kvm.h"

#include <memory>

#include "kvmglue/errno_status.h"
#include "kvmglue/fd.h"
#include "kvmglue/os_kvm_syscalls.h"

namespace rehome {

std::string WhyNoKvm() {
  const std::unique_ptr<KvmSyscalls> kernel = OpenRealKvm();
  const SysResult result = kernel->OpenKvm();
  if (!result.ok()) return "open /dev/kvm: " + ErrnoText(result.error);
  UniqueFd closes_it(static_cast<int>(result.value));
  return "";
}

}  // namespace rehome
