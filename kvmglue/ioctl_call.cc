// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/ioctl_call.h"

namespace rehome {

absl::StatusOr<UniqueFd> AdoptFd(const SysResult& result, KernelCall call,
                                 std::string_view detail) {
  if (!result.ok()) return ErrnoStatus(call, result.error, detail);
  UniqueFd fd(static_cast<int>(result.value));
  if (absl::Status status = SetCloseOnExec(fd.borrow()); !status.ok()) return status;
  return fd;
}

}  // namespace rehome
