// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/errno_status.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cerrno>
#include <set>

#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using enum KernelCall;
using Code = absl::StatusCode;

constexpr int kLastCall = static_cast<int>(kSetVcpuState);
constexpr int kUnlisted = ELNRNG;  // an errno that no row of the table names

// What callers were promised (fd.h, fd_passing.h, vm.h, vcpu.h), spelled out apart from the table.
constexpr ErrnoRow kPromised[] = {
    {kDuplicateFd, EBADF, Code::kInvalidArgument, "BAD_FD"},
    {kDuplicateFd, EMFILE, Code::kResourceExhausted, "FD_LIMIT"},
    {kDuplicateFd, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kStat, EBADF, Code::kInvalidArgument, "BAD_FD"},
    {kStat, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kSetCloseOnExec, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kSocketPair, ENFILE, Code::kResourceExhausted, "FD_LIMIT"},
    {kSocketPair, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kSendMessage, EAGAIN, Code::kUnavailable, "SOCKET_FULL"},
    {kSendMessage, EPIPE, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ECONNRESET, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ECONNREFUSED, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, ENOTCONN, Code::kUnavailable, "PEER_GONE"},
    {kSendMessage, EMSGSIZE, Code::kInvalidArgument, "MESSAGE_TOO_LARGE"},
    {kSendMessage, ETOOMANYREFS, Code::kResourceExhausted, "FD_LIMIT"},
    {kSendMessage, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kSendMessage, EBADF, Code::kInvalidArgument, "BAD_FD"},
    {kSendMessage, ENOBUFS, Code::kResourceExhausted, "OUT_OF_MEMORY"},
    {kSendMessage, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kReceiveMessage, EAGAIN, Code::kUnavailable, "WOULD_BLOCK"},
    {kReceiveMessage, ECONNRESET, Code::kUnavailable, "PEER_GONE"},
    {kReceiveMessage, ENOTCONN, Code::kUnavailable, "PEER_GONE"},
    {kReceiveMessage, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kReceiveMessage, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kPeerCredentials, ESRCH, Code::kNotFound, "PEER_GONE"},
    {kPeerCredentials, ENODATA, Code::kNotFound, "PEER_GONE"},
    {kPeerCredentials, ENOTSOCK, Code::kInvalidArgument, "NOT_A_SOCKET"},
    {kPeerCredentials, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kPidfdOpen, ESRCH, Code::kNotFound, "PROCESS_GONE"},
    {kPidfdOpen, EINVAL, Code::kInvalidArgument, "BAD_PID"},
    {kPidfdOpen, ENOENT, Code::kInvalidArgument, "BAD_PID"},
    {kPidfdOpen, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kPidfdSendSignal, ESRCH, Code::kNotFound, "PROCESS_GONE"},
    {kPidfdSendSignal, EPERM, Code::kPermissionDenied, "SIGNAL_DENIED"},
    {kPidfdSendSignal, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kFindTap, ENODEV, Code::kNotFound, "TAP_NOT_FOUND"},
    {kFindTap, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kOpenTap, EBUSY, Code::kUnavailable, "TAP_BUSY"},
    {kOpenTap, EPERM, Code::kPermissionDenied, "TAP_DENIED"},
    {kOpenTap, EACCES, Code::kPermissionDenied, "TAP_DENIED"},
    {kOpenTap, ENOENT, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, ENODEV, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, ENXIO, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, EINVAL, Code::kFailedPrecondition, "TAP_UNSUPPORTED"},
    {kOpenTap, kUnlisted, Code::kInternal, "SYSCALL_FAILED"},
    {kOpenKvm, ENOENT, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kOpenKvm, EACCES, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kOpenKvm, kUnlisted, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kGetApiVersion, kUnlisted, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kGetVcpuMmapSize, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kGetSupportedCpuid, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kGetMsrIndexList, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kCreateVm, EINVAL, Code::kFailedPrecondition, "VM_TYPE_UNSUPPORTED"},
    {kCreateVm, EBUSY, Code::kUnavailable, "KVM_UNAVAILABLE"},
    {kCreateVm, ENOMEM, Code::kResourceExhausted, "OUT_OF_MEMORY"},
    {kCreateVm, EIO, Code::kInternal, "KVM_FAILED"},  // there is no VM yet that could be dead
    {kCreateVm, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kCheckExtension, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kCheckExtension, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kEnableCap, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kSetTssAddr, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kSetIdentityMapAddr, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kCreateIrqchip, EEXIST, Code::kFailedPrecondition, "IRQCHIP_EXISTS"},
    {kCreateIrqchip, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kCreatePit2, EEXIST, Code::kFailedPrecondition, "IRQCHIP_EXISTS"},
    {kCreatePit2, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kCreateGuestMemfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kCreateGuestMemfd, ENOTTY, Code::kFailedPrecondition, "GUEST_MEMFD_UNSUPPORTED"},
    {kCreateGuestMemfd, EMFILE, Code::kResourceExhausted, "FD_LIMIT"},
    {kCreateGuestMemfd, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kLinkGuestMemfd, ENOTTY, Code::kFailedPrecondition, "LINK_UNSUPPORTED"},
    {kLinkGuestMemfd, EINVAL, Code::kInvalidArgument, "LINK_REFUSED"},
    {kLinkGuestMemfd, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kLinkGuestMemfd, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kSetUserMemoryRegion, EINVAL, Code::kInvalidArgument, "MEMSLOT_INVALID"},
    {kSetUserMemoryRegion, EEXIST, Code::kAlreadyExists, "MEMSLOT_OVERLAP"},
    {kSetUserMemoryRegion, ENOTTY, Code::kFailedPrecondition, "GUEST_MEMFD_UNSUPPORTED"},
    {kSetUserMemoryRegion, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kSetMemoryAttributes, ENOTTY, Code::kFailedPrecondition, "MEMORY_ATTRIBUTES_UNSUPPORTED"},
    {kSetMemoryAttributes, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kSetMemoryAttributes, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kMoveEncContext, EINVAL, Code::kFailedPrecondition, "MOVE_MISMATCH"},
    {kMoveEncContext, ENOTTY, Code::kFailedPrecondition, "MOVE_UNSUPPORTED"},
    {kMoveEncContext, EBADF, Code::kInvalidArgument, "MOVE_BAD_SOURCE"},
    {kMoveEncContext, EBUSY, Code::kUnavailable, "MOVE_BUSY"},
    {kMoveEncContext, EINTR, Code::kAborted, "MOVE_INTERRUPTED"},
    {kMoveEncContext, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kMoveEncContext, kUnlisted, Code::kInternal, "MOVE_FAILED"},
    {kMemoryEncryptOp, ENOTTY, Code::kFailedPrecondition, "SEV_UNSUPPORTED"},
    {kMemoryEncryptOp, EINVAL, Code::kInvalidArgument, "SEV_LAUNCH_REFUSED"},
    {kMemoryEncryptOp, EIO, Code::kInternal, "SEV_LAUNCH_FAILED"},
    {kMemoryEncryptOp, kUnlisted, Code::kInternal, "SEV_LAUNCH_FAILED"},
    {kRegisterEncryptedRegion, kUnlisted, Code::kInternal, "SEV_LAUNCH_FAILED"},
    {kCreateVcpu, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kCreateVcpu, EEXIST, Code::kAlreadyExists, "VCPU_EXISTS"},
    {kCreateVcpu, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kGetVmState, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kGetVmState, kUnlisted, Code::kInternal, "VM_STATE_SAVE_FAILED"},
    {kSetVmState, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kSetVmState, EINVAL, Code::kInvalidArgument, "VM_STATE_REFUSED"},
    {kSetVmState, kUnlisted, Code::kInternal, "VM_STATE_RESTORE_FAILED"},
    {kIrqfd, EBUSY, Code::kUnavailable, "IRQFD_BUSY"},
    {kIrqfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kIrqfd, EAGAIN, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kIrqfd, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kIrqfd, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kIoeventfd, EEXIST, Code::kAlreadyExists, "IOEVENTFD_EXISTS"},
    {kIoeventfd, ENOENT, Code::kNotFound, "IOEVENTFD_MISSING"},
    {kIoeventfd, ENOSPC, Code::kResourceExhausted, "IOEVENTFD_LIMIT"},
    {kIoeventfd, EINVAL, Code::kInvalidArgument, "KVM_INVALID"},
    {kIoeventfd, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kIrqLine, ENXIO, Code::kFailedPrecondition, "IRQCHIP_MISSING"},
    {kIrqLine, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kMapRun, ENOMEM, Code::kResourceExhausted, "OUT_OF_MEMORY"},
    {kMapRun, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kSetCpuid, EINVAL, Code::kInvalidArgument, "CPUID_REFUSED"},
    {kSetCpuid, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kPreFault, EOPNOTSUPP, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, EINVAL, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, ENOTTY, Code::kUnimplemented, "PRE_FAULT_UNSUPPORTED"},
    {kPreFault, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kPreFault, kUnlisted, Code::kInternal, "KVM_FAILED"},
    {kRun, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kRun, EINTR, Code::kUnavailable, "CALL_INTERRUPTED"},
    {kRun, kUnlisted, Code::kInternal, "KVM_RUN_FAILED"},
    {kGetVcpuState, EIO, Code::kFailedPrecondition, "VM_DEAD"},
    {kGetVcpuState, kUnlisted, Code::kInternal, "VCPU_STATE_SAVE_FAILED"},
    {kSetVcpuState, EINVAL, Code::kInvalidArgument, "VCPU_STATE_REFUSED"},
    {kSetVcpuState, kUnlisted, Code::kInternal, "VCPU_STATE_RESTORE_FAILED"},
};

TEST(ErrnoStatus, KeepsEveryPromise) {
  for (const ErrnoRow& promise : kPromised) {
    const absl::Status status = ErrnoStatus(promise.call, promise.error, "");
    EXPECT_EQ(status.code(), promise.code) << status;
    EXPECT_EQ(ReasonOf(status), promise.reason) << status;
  }
}

// A row that nobody was promised is a row that no test looks at.
TEST(ErrnoStatus, EveryRowIsPromised) {
  std::set<std::pair<KernelCall, int>> promised;
  for (const ErrnoRow& row : kPromised) promised.insert({row.call, row.error});
  for (const ErrnoRow& row : ErrnoTable()) {
    const int error = row.error == kAnyErrno ? kUnlisted : row.error;
    EXPECT_TRUE(promised.contains({row.call, error}))
        << KernelCallName(row.call) << " " << ErrnoText(error);
  }
}

TEST(ErrnoStatus, NoRowIsShadowedByAnother) {
  std::set<std::pair<KernelCall, int>> seen;
  for (const ErrnoRow& row : ErrnoTable()) {
    EXPECT_TRUE(seen.insert({row.call, row.error}).second)
        << KernelCallName(row.call) << " " << row.error;
  }
}

TEST(ErrnoStatus, EveryCallHasANameAndAMeaningForEveryErrno) {
  std::set<std::string_view> names;
  for (int number = 0; number <= kLastCall; ++number) {
    const auto call = static_cast<KernelCall>(number);
    EXPECT_TRUE(names.insert(KernelCallName(call)).second) << KernelCallName(call);
    for (int error = 1; error < 134; ++error) {
      const absl::Status status = ErrnoStatus(call, error, "");
      EXPECT_FALSE(status.ok());
      EXPECT_NE(ReasonOf(status), "UNSPECIFIED");
    }
  }
}

TEST(ErrnoStatus, EioOfEveryVmCallMeansDeadExceptWhereFirmwareUsesIt) {
  for (int number = 0; number <= kLastCall; ++number) {
    const auto call = static_cast<KernelCall>(number);
    const std::string reason = ReasonOf(ErrnoStatus(call, EIO, ""));
    EXPECT_EQ(reason == "VM_DEAD", ActsOnVm(call) && call != kMemoryEncryptOp)
        << KernelCallName(call);
  }
}

TEST(ErrnoStatus, CommonMeaningsHoldWhereACallHasNoneOfItsOwn) {
  for (const CommonErrnoRow& row : CommonErrnoTable()) {
    const absl::Status status = ErrnoStatus(kGetMsrIndexList, row.error, "");
    EXPECT_EQ(status.code(), row.code);
    EXPECT_EQ(ReasonOf(status), row.reason);
  }
}

TEST(ErrnoStatus, MessageNamesCallErrnoAndDetail) {
  EXPECT_EQ(ErrnoStatus(kCreateVm, EINVAL, "type sev").message(),
            "KVM_CREATE_VM: EINVAL (Invalid argument): type sev");
  EXPECT_EQ(ErrnoStatus(kRun, 4711, "").message(), "KVM_RUN: errno 4711");
}

TEST(ErrnoStatus, ReasonsAreUpperSnakeAndShortEnoughForErrorInfo) {
  constexpr size_t kMaxReason = 63;  // google.rpc.ErrorInfo
  for (const ErrnoRow& row : ErrnoTable()) {
    EXPECT_LE(row.reason.size(), kMaxReason);
    for (const char c : row.reason) {
      EXPECT_TRUE(c == '_' || isupper(c) || isdigit(c)) << row.reason;
    }
  }
}

}  // namespace
}  // namespace rehome
