// SPDX-License-Identifier: Apache-2.0
//
// The small vocabulary of the ioctl handlers.
#ifndef REHOME_KVMGLUE_SIM_OUTCOME_H_
#define REHOME_KVMGLUE_SIM_OUTCOME_H_

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "kvmglue/sys_result.h"

namespace rehome::sim {

inline SysResult Success(long value = 0) { return {value, 0}; }
inline SysResult Failure(int error) { return {-1, error}; }

// copy_from_user() and copy_to_user(), as far as a library can: nullptr is EFAULT, another pointer
// that is not mapped is the caller's SIGSEGV.
template <typename T>
bool CopyIn(const void* argument, T& value) {
  if (argument == nullptr) return false;
  std::memcpy(&value, argument, sizeof(T));
  return true;
}
template <typename T>
bool CopyOut(void* argument, const T& value) {
  if (argument == nullptr) return false;
  std::memcpy(argument, &value, sizeof(T));
  return true;
}
template <typename T>
SysResult CopyOutResult(void* argument, const T& value) {
  return CopyOut(argument, value) ? Success() : Failure(EFAULT);
}

inline bool IsPageAligned(uint64_t value) { return (value & 4095) == 0; }

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_OUTCOME_H_
