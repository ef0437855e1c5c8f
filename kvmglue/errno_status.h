// SPDX-License-Identifier: Apache-2.0
//
// The one table that says what an errno means, by the call that gave it. The same number means
// different things: EINVAL of KVM_CREATE_VM is a VM type that this host does not have, EINVAL of
// MOVE a binding that differs. Nobody else in the project interprets errno of these calls.
#ifndef REHOME_KVMGLUE_ERRNO_STATUS_H_
#define REHOME_KVMGLUE_ERRNO_STATUS_H_

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace rehome {

// Every system call that kvmglue makes. The lower half (from kOpenKvm on) goes through KvmSyscalls.
enum class KernelCall {
  // Descriptors and sockets.
  kDuplicateFd,
  kStat,
  kSetCloseOnExec,
  kSocketPair,
  kSendMessage,
  kReceiveMessage,
  kPeerCredentials,
  kPidfdOpen,
  kPidfdSendSignal,
  kFindTap,
  kOpenTap,
  // /dev/kvm.
  kOpenKvm,
  kGetApiVersion,
  kGetVcpuMmapSize,
  kGetSupportedCpuid,
  kGetMsrIndexList,
  kCreateVm,
  // VM.
  kCheckExtension,
  kEnableCap,
  kSetTssAddr,
  kSetIdentityMapAddr,
  kCreateIrqchip,
  kCreatePit2,
  kCreateGuestMemfd,
  kLinkGuestMemfd,
  kSetUserMemoryRegion,
  kSetMemoryAttributes,
  kMoveEncContext,
  kMemoryEncryptOp,
  kRegisterEncryptedRegion,
  kCreateVcpu,
  kGetVmState,
  kSetVmState,
  kIrqfd,
  kIoeventfd,
  kIrqLine,
  // vCPU.
  kMapRun,
  kSetCpuid,
  kPreFault,
  kRun,
  kGetVcpuState,
  kSetVcpuState,
};

// "KVM_CREATE_VM", "sendmsg", ...
std::string_view KernelCallName(KernelCall call);

// Which descriptor a call acts on; EIO of a VM's or vCPU's means "dead, or not the creator's
// address space" (virt/kvm/kvm_main.c, kvm_vm_ioctl(): kvm->mm != current->mm || kvm->vm_dead).
bool ActsOnVm(KernelCall call);

struct ErrnoRow {
  KernelCall call;
  int error;  // kAnyErrno: whatever has no row of its own
  absl::StatusCode code;
  std::string_view reason;
};
inline constexpr int kAnyErrno = 0;

// Meanings that do not depend on the call; a row of the call's own comes first.
struct CommonErrnoRow {
  int error;
  absl::StatusCode code;
  std::string_view reason;
};

std::span<const ErrnoRow> ErrnoTable();
std::span<const CommonErrnoRow> CommonErrnoTable();

// The error for `error` of `call`: "KVM_CREATE_VM: EINVAL (Invalid argument): type 1". Never OK.
// Looked up in this order: the call's row for `error`; EIO of a VM call (VM_DEAD); the common rows;
// the call's kAnyErrno row, which every call has.
absl::Status ErrnoStatus(KernelCall call, int error, std::string_view detail);

// "EINVAL (Invalid argument)"; "errno 4711" for a number without a name.
std::string ErrnoText(int error);

}  // namespace rehome

#endif  // REHOME_KVMGLUE_ERRNO_STATUS_H_
