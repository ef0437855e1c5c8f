// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SYS_RESULT_H_
#define REHOME_KVMGLUE_SYS_RESULT_H_

#include <cerrno>

namespace rehome {

// The value of a system call with the errno it left; captured together, so that nothing that runs
// in between can overwrite it.
struct SysResult {
  long value = 0;  // >= 0 on success
  int error = 0;   // errno if value < 0, else 0
  bool ok() const { return value >= 0; }
};

// Wraps a system call in the expression that makes it: CaptureErrno(fstat(fd, &buffer)).
inline SysResult CaptureErrno(long value) { return {value, value < 0 ? errno : 0}; }

// Makes the call, which is a function object, again as long as a signal interrupts it. For calls
// that do not wait: a timeout would begin anew.
template <typename Call>
SysResult Uninterrupted(Call call) {
  SysResult result;
  do {
    result = CaptureErrno(call());
  } while (result.error == EINTR);
  return result;
}

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SYS_RESULT_H_
