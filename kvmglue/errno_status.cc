// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/errno_status.h"

#include <string.h>

#include <cerrno>
#include <cstddef>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using enum KernelCall;
using Code = absl::StatusCode;

struct CallInfo {
  KernelCall call;
  std::string_view name;
  bool acts_on_vm;
};

// In the order of the enum.
constexpr CallInfo kCalls[] = {
    {kDuplicateFd, "F_DUPFD_CLOEXEC", false},
    {kStat, "fstat", false},
    {kSetCloseOnExec, "F_SETFD", false},
    {kSocketPair, "socketpair", false},
    {kSendMessage, "sendmsg", false},
    {kReceiveMessage, "recvmsg", false},
    {kPeerCredentials, "peer credentials", false},
    {kPidfdOpen, "pidfd_open", false},
    {kPidfdSendSignal, "pidfd_send_signal", false},
    {kFindTap, "find tap", false},
    {kOpenTap, "tap", false},
    {kOpenKvm, "open /dev/kvm", false},
    {kGetApiVersion, "KVM_GET_API_VERSION", false},
    {kGetVcpuMmapSize, "KVM_GET_VCPU_MMAP_SIZE", false},
    {kGetSupportedCpuid, "KVM_GET_SUPPORTED_CPUID", false},
    {kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", false},
    {kCreateVm, "KVM_CREATE_VM", false},
    {kCheckExtension, "KVM_CHECK_EXTENSION", true},
    {kEnableCap, "KVM_ENABLE_CAP", true},
    {kSetTssAddr, "KVM_SET_TSS_ADDR", true},
    {kSetIdentityMapAddr, "KVM_SET_IDENTITY_MAP_ADDR", true},
    {kCreateIrqchip, "KVM_CREATE_IRQCHIP", true},
    {kCreatePit2, "KVM_CREATE_PIT2", true},
    {kCreateGuestMemfd, "KVM_CREATE_GUEST_MEMFD", true},
    {kLinkGuestMemfd, "KVM_LINK_GUEST_MEMFD", true},
    {kSetUserMemoryRegion, "KVM_SET_USER_MEMORY_REGION2", true},
    {kSetMemoryAttributes, "KVM_SET_MEMORY_ATTRIBUTES", true},
    {kMoveEncContext, "KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM", true},
    {kMemoryEncryptOp, "KVM_MEMORY_ENCRYPT_OP", true},
    {kRegisterEncryptedRegion, "KVM_MEMORY_ENCRYPT_REG_REGION", true},
    {kCreateVcpu, "KVM_CREATE_VCPU", true},
    {kGetVmState, "save VM state", true},
    {kSetVmState, "restore VM state", true},
    {kIrqfd, "KVM_IRQFD", true},
    {kIoeventfd, "KVM_IOEVENTFD", true},
    {kIrqLine, "KVM_IRQ_LINE", true},
    {kMapRun, "mmap of kvm_run", false},
    {kSetCpuid, "KVM_SET_CPUID2", true},
    {kPreFault, "KVM_PRE_FAULT_MEMORY", true},
    {kRun, "KVM_RUN", true},
    {kGetVcpuState, "save vCPU state", true},
    {kSetVcpuState, "restore vCPU state", true},
};

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kCalls); ++i) {
    if (static_cast<size_t>(kCalls[i].call) != i) return false;
  }
  return true;
}
static_assert(InOrder() && std::size(kCalls) == static_cast<size_t>(kSetVcpuState) + 1);

const CallInfo& InfoOf(KernelCall call) { return kCalls[static_cast<size_t>(call)]; }

// Sources: Documentation/virt/kvm/api.rst and arch/x86/kvm; for LINK and MOVE also the RFC "New
// KVM ioctl to link a gmem inode to a new gmem file" (v2, cover.1747368092.git.afranji@google.com).
constexpr ErrnoRow kTable[] = {
    {kDuplicateFd, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},
    {kStat, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},
    {kSetCloseOnExec, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},
    {kSocketPair, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kSendMessage, EAGAIN, Code::kUnavailable, "SOCKET_FULL"},
    {kSendMessage, EPIPE, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ECONNRESET, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ECONNREFUSED, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ENOTCONN, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, EMSGSIZE, Code::kInvalidArgument, "MESSAGE_TOO_LARGE"},
    // Descriptors in flight count against the sender's RLIMIT_NOFILE (net/core/scm.c).
    {kSendMessage, ETOOMANYREFS, Code::kResourceExhausted, "FD_LIMIT"},
    {kSendMessage, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kSendMessage, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kReceiveMessage, EAGAIN, Code::kUnavailable, "WOULD_BLOCK"},
    {kReceiveMessage, ECONNRESET, Code::kUnavailable, "PEER_GONE"},
    {kReceiveMessage, ENOTCONN, Code::kUnavailable, "PEER_GONE"},
    {kReceiveMessage, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kReceiveMessage, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kPeerCredentials, ESRCH, Code::kNotFound, "PEER_GONE"},
    {kPeerCredentials, ENODATA, Code::kNotFound, "PEER_GONE"},
    {kPeerCredentials, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kPeerCredentials, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kPidfdOpen, ESRCH, Code::kNotFound, "PROCESS_GONE"},
    {kPidfdOpen, EINVAL, Code::kInvalidArgument, "BAD_PID"},
    // A thread that leads no process: EINVAL on older kernels, this on newer ones.
    {kPidfdOpen, ENOENT, Code::kInvalidArgument, "BAD_PID"},
    {kPidfdOpen, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},
    {kPidfdSendSignal, ESRCH, Code::kNotFound, "PROCESS_GONE"},
    {kPidfdSendSignal, EPERM, Code::kPermissionDenied, "SIGNAL_DENIED"},
    {kPidfdSendSignal, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kFindTap, ENODEV, Code::kNotFound, "TAP_NOT_FOUND"},
    {kFindTap, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},
    {kOpenTap, EBUSY, Code::kUnavailable, "TAP_BUSY"},
    {kOpenTap, EPERM, Code::kPermissionDenied, "TAP_DENIED"},
    {kOpenTap, EACCES, Code::kPermissionDenied, "TAP_DENIED"},
    {kOpenTap, ENOENT, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, ENODEV, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, ENXIO, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, EINVAL, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, kAnyErrno, Code::kInternal, "SYSCALL_FAILED"},

    {kOpenKvm, kAnyErrno, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kGetApiVersion, kAnyErrno, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kGetVcpuMmapSize, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kGetSupportedCpuid, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kGetMsrIndexList, kAnyErrno, Code::kInternal, "KVM_FAILED"},

    {kCreateVm, EINVAL, Code::kFailedPrecondition, "VM_TYPE_UNSUPPORTED"},
    // Another hypervisor has the CPU's virtualization extension.
    {kCreateVm, EBUSY, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kCreateVm, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kCheckExtension, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kEnableCap, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kSetTssAddr, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kSetIdentityMapAddr, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kCreateIrqchip, EEXIST, Code::kFailedPrecondition, "IRQCHIP_EXISTS"},
    {kCreateIrqchip, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kCreatePit2, EEXIST, Code::kFailedPrecondition, "IRQCHIP_EXISTS"},
    {kCreatePit2, kAnyErrno, Code::kInternal, "KVM_FAILED"},

    {kCreateGuestMemfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kCreateGuestMemfd, ENOTTY, Code::kFailedPrecondition, "GUEST_MEMFD_UNSUPPORTED"},
    {kCreateGuestMemfd, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kLinkGuestMemfd, ENOTTY, Code::kFailedPrecondition, "LINK_UNSUPPORTED"},
    {kLinkGuestMemfd, EINVAL, Code::kInvalidArgument, "LINK_REFUSED"},
    {kLinkGuestMemfd, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kSetUserMemoryRegion, EINVAL, Code::kInvalidArgument, "MEMSLOT_INVALID"},
    {kSetUserMemoryRegion, EEXIST, Code::kAlreadyExists, "MEMSLOT_OVERLAP"},
    {kSetUserMemoryRegion, ENOTTY, Code::kFailedPrecondition, "GUEST_MEMFD_UNSUPPORTED"},
    {kSetUserMemoryRegion, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kSetMemoryAttributes, ENOTTY, Code::kFailedPrecondition, "MEMORY_ATTRIBUTES_UNSUPPORTED"},
    {kSetMemoryAttributes, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kSetMemoryAttributes, kAnyErrno, Code::kInternal, "KVM_FAILED"},

    // EINVAL is also the answer of a kernel without the operation; Vm::MoveEncContextFrom() tells
    // the two apart by a second call.
    {kMoveEncContext, EINVAL, Code::kFailedPrecondition, "MOVE_MISMATCH"},
    {kMoveEncContext, ENOTTY, Code::kFailedPrecondition, "MOVE_UNSUPPORTED"},
    {kMoveEncContext, EBADF, Code::kInvalidArgument, "MOVE_BAD_SOURCE"},
    {kMoveEncContext, EBUSY, Code::kUnavailable, "MOVE_BUSY"},
    {kMoveEncContext, EINTR, Code::kAborted, "MOVE_INTERRUPTED"},
    {kMoveEncContext, kAnyErrno, Code::kInternal, "MOVE_FAILED"},

    {kMemoryEncryptOp, ENOTTY, Code::kFailedPrecondition, "SEV_UNSUPPORTED"},
    {kMemoryEncryptOp, EINVAL, Code::kInvalidArgument, "SEV_LAUNCH_REFUSED"},
    // The firmware's own errors come as EIO with a code beside it, so EIO is not "dead" here.
    {kMemoryEncryptOp, EIO, Code::kInternal, "SEV_LAUNCH_FAILED"},
    {kMemoryEncryptOp, kAnyErrno, Code::kInternal, "SEV_LAUNCH_FAILED"},

    {kRegisterEncryptedRegion, kAnyErrno, Code::kInternal, "SEV_LAUNCH_FAILED"},
    {kCreateVcpu, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kCreateVcpu, EEXIST, Code::kAlreadyExists, "VCPU_EXISTS"},
    {kCreateVcpu, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kGetVmState, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kGetVmState, kAnyErrno, Code::kInternal, "VM_STATE_SAVE_FAILED"},
    {kSetVmState, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kSetVmState, EINVAL, Code::kInvalidArgument, "VM_STATE_REFUSED"},
    {kSetVmState, kAnyErrno, Code::kInternal, "VM_STATE_RESTORE_FAILED"},

    {kIrqfd, EBUSY, Code::kUnavailable, "IRQFD_BUSY"},
    {kIrqfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kIrqfd, EAGAIN, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kIrqfd, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kIoeventfd, EEXIST, Code::kAlreadyExists, "IOEVENTFD_EXISTS"},
    {kIoeventfd, ENOENT, Code::kNotFound, "IOEVENTFD_MISSING"},
    {kIoeventfd, ENOSPC, Code::kResourceExhausted, "IOEVENTFD_LIMIT"},
    {kIoeventfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kIoeventfd, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kIrqLine, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kIrqLine, kAnyErrno, Code::kInternal, "KVM_FAILED"},

    {kMapRun, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kSetCpuid, EINVAL, Code::kInvalidArgument, "CPUID_REFUSED"},
    {kSetCpuid, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    // EOPNOTSUPP: shadow paging, or a kind of VM without it (arch/x86/kvm/mmu/mmu.c,
    // kvm_arch_vcpu_pre_fault_memory()). A vCPU that has no such call says EINVAL
    // (arch/x86/kvm/x86.c, kvm_arch_vcpu_ioctl()), as of a stretch that is no whole pages.
    {kPreFault, EOPNOTSUPP, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, EINVAL, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, ENOTTY, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, kAnyErrno, Code::kInternal, "KVM_FAILED"},
    {kRun, kAnyErrno, Code::kInternal, "KVM_RUN_FAILED"},
    {kGetVcpuState, kAnyErrno, Code::kInternal, "VCPU_STATE_SAVE_FAILED"},
    {kSetVcpuState, EINVAL, Code::kInvalidArgument, "VCPU_STATE_REFUSED"},
    {kSetVcpuState, kAnyErrno, Code::kInternal, "VCPU_STATE_RESTORE_FAILED"},
};

constexpr CommonErrnoRow kCommon[] = {
    {EBADF, Code::kInvalidArgument, "BAD_FD"},
    {EMFILE, Code::kResourceExhausted, "FD_LIMIT"},
    {ENFILE, Code::kResourceExhausted, "FD_LIMIT"},
    {ENOMEM, Code::kResourceExhausted, "OUT_OF_MEMORY"},
    {ENOBUFS, Code::kResourceExhausted, "OUT_OF_MEMORY"},
    {EINTR, Code::kUnavailable, "CALL_INTERRUPTED"},
};

struct Meaning {
  Code code;
  std::string_view reason;
};

// The call's own row for `error`, if there is one.
const ErrnoRow* FindRow(KernelCall call, int error) {
  for (const ErrnoRow& row : kTable) {
    if (row.call == call && row.error == error) return &row;
  }
  return nullptr;
}

Meaning Lookup(KernelCall call, int error) {
  if (const ErrnoRow* row = FindRow(call, error)) return {row->code, row->reason};
  if (error == EIO && ActsOnVm(call)) return {Code::kFailedPrecondition, "VM_DEAD"};
  for (const CommonErrnoRow& row : kCommon) {
    if (row.error == error) return {row.code, row.reason};
  }
  const ErrnoRow* fallback = FindRow(call, kAnyErrno);
  if (fallback == nullptr) return {Code::kInternal, "SYSCALL_FAILED"};
  return {fallback->code, fallback->reason};
}

}  // namespace

std::span<const ErrnoRow> ErrnoTable() { return kTable; }
std::span<const CommonErrnoRow> CommonErrnoTable() { return kCommon; }

std::string_view KernelCallName(KernelCall call) { return InfoOf(call).name; }

bool ActsOnVm(KernelCall call) { return InfoOf(call).acts_on_vm; }

std::string ErrnoText(int error) {
  const char* name = strerrorname_np(error);
  if (name == nullptr) return absl::StrCat("errno ", error);
  return absl::StrCat(name, " (", strerrordesc_np(error), ")");
}

absl::Status ErrnoStatus(KernelCall call, int error, std::string_view detail) {
  const Meaning meaning = Lookup(call, error);
  const std::string_view name = KernelCallName(call);
  std::string message =
      absl::StrCat(absl::string_view(name.data(), name.size()), ": ", ErrnoText(error));
  if (!detail.empty()) {
    absl::StrAppend(&message, ": ", absl::string_view(detail.data(), detail.size()));
  }
  return MakeStatus(meaning.code, meaning.reason, message);
}

}  // namespace rehome
