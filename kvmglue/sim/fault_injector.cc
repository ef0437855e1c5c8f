// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/fault_injector.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/sim/errno_name.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr std::string_view kLinkName = "KVM_LINK_GUEST_MEMFD";

struct NamedRequest {
  std::string_view name;
  unsigned long request;
};

#define REHOME_NAMED_REQUEST(request) \
  { #request, request }

// Every ioctl that the project makes.
constexpr NamedRequest kRequests[] = {
    REHOME_NAMED_REQUEST(KVM_CHECK_EXTENSION),
    REHOME_NAMED_REQUEST(KVM_CREATE_GUEST_MEMFD),
    REHOME_NAMED_REQUEST(KVM_CREATE_IRQCHIP),
    REHOME_NAMED_REQUEST(KVM_CREATE_PIT2),
    REHOME_NAMED_REQUEST(KVM_CREATE_VCPU),
    REHOME_NAMED_REQUEST(KVM_CREATE_VM),
    REHOME_NAMED_REQUEST(KVM_ENABLE_CAP),
    REHOME_NAMED_REQUEST(KVM_GET_API_VERSION),
    REHOME_NAMED_REQUEST(KVM_GET_CLOCK),
    REHOME_NAMED_REQUEST(KVM_GET_CPUID2),
    REHOME_NAMED_REQUEST(KVM_GET_DEBUGREGS),
    REHOME_NAMED_REQUEST(KVM_GET_DEVICE_ATTR),
    REHOME_NAMED_REQUEST(KVM_GET_IRQCHIP),
    REHOME_NAMED_REQUEST(KVM_GET_LAPIC),
    REHOME_NAMED_REQUEST(KVM_GET_MP_STATE),
    REHOME_NAMED_REQUEST(KVM_GET_MSRS),
    REHOME_NAMED_REQUEST(KVM_GET_MSR_INDEX_LIST),
    REHOME_NAMED_REQUEST(KVM_GET_PIT2),
    REHOME_NAMED_REQUEST(KVM_GET_REGS),
    REHOME_NAMED_REQUEST(KVM_GET_SREGS),
    REHOME_NAMED_REQUEST(KVM_GET_SREGS2),
    REHOME_NAMED_REQUEST(KVM_GET_SUPPORTED_CPUID),
    REHOME_NAMED_REQUEST(KVM_GET_TSC_KHZ),
    REHOME_NAMED_REQUEST(KVM_GET_VCPU_EVENTS),
    REHOME_NAMED_REQUEST(KVM_GET_VCPU_MMAP_SIZE),
    REHOME_NAMED_REQUEST(KVM_GET_XCRS),
    REHOME_NAMED_REQUEST(KVM_GET_XSAVE),
    REHOME_NAMED_REQUEST(KVM_GET_XSAVE2),
    REHOME_NAMED_REQUEST(KVM_HAS_DEVICE_ATTR),
    REHOME_NAMED_REQUEST(KVM_KVMCLOCK_CTRL),
    REHOME_NAMED_REQUEST(KVM_MEMORY_ENCRYPT_OP),
    REHOME_NAMED_REQUEST(KVM_MEMORY_ENCRYPT_REG_REGION),
    REHOME_NAMED_REQUEST(KVM_PRE_FAULT_MEMORY),
    REHOME_NAMED_REQUEST(KVM_RUN),
    REHOME_NAMED_REQUEST(KVM_SET_CLOCK),
    REHOME_NAMED_REQUEST(KVM_SET_CPUID2),
    REHOME_NAMED_REQUEST(KVM_SET_DEBUGREGS),
    REHOME_NAMED_REQUEST(KVM_SET_DEVICE_ATTR),
    REHOME_NAMED_REQUEST(KVM_SET_IDENTITY_MAP_ADDR),
    REHOME_NAMED_REQUEST(KVM_SET_IRQCHIP),
    REHOME_NAMED_REQUEST(KVM_SET_LAPIC),
    REHOME_NAMED_REQUEST(KVM_SET_MEMORY_ATTRIBUTES),
    REHOME_NAMED_REQUEST(KVM_SET_MP_STATE),
    REHOME_NAMED_REQUEST(KVM_SET_MSRS),
    REHOME_NAMED_REQUEST(KVM_SET_PIT2),
    REHOME_NAMED_REQUEST(KVM_SET_REGS),
    REHOME_NAMED_REQUEST(KVM_SET_SREGS),
    REHOME_NAMED_REQUEST(KVM_SET_SREGS2),
    REHOME_NAMED_REQUEST(KVM_SET_TSS_ADDR),
    REHOME_NAMED_REQUEST(KVM_SET_USER_MEMORY_REGION),
    REHOME_NAMED_REQUEST(KVM_SET_USER_MEMORY_REGION2),
    REHOME_NAMED_REQUEST(KVM_SET_VCPU_EVENTS),
    REHOME_NAMED_REQUEST(KVM_SET_XCRS),
    REHOME_NAMED_REQUEST(KVM_SET_XSAVE),
};

#undef REHOME_NAMED_REQUEST

std::optional<unsigned long> RequestFromName(std::string_view name, uint32_t link_ioctl_number) {
  if (name == kLinkName) return LinkGuestMemfdRequest(link_ioctl_number);
  for (const NamedRequest& known : kRequests) {
    if (known.name == name) return known.request;
  }
  uint64_t number = 0;
  if (name.substr(0, 2) == "0x" && absl::SimpleHexAtoi(std::string(name), &number)) return number;
  return std::nullopt;
}

std::optional<FaultOperation> OperationFromName(std::string_view name, uint32_t link_ioctl_number) {
  if (name == "OPEN") return FaultOperation{FaultOperation::Kind::kOpen};
  if (name == "MAP") return FaultOperation{FaultOperation::Kind::kMap};
  const auto request = RequestFromName(name, link_ioctl_number);
  if (!request) return std::nullopt;
  return FaultOperation{FaultOperation::Kind::kIoctl, *request};
}

std::optional<Fault> ParseFault(const std::string& item, uint32_t link_ioctl_number) {
  const std::vector<std::string> parts = absl::StrSplit(item, ':');
  if (parts.size() != 4) return std::nullopt;
  const auto operation = OperationFromName(parts[0], link_ioctl_number);
  const auto error = ErrnoFromName(parts[2]);
  Fault fault;
  if (!operation || !error) return std::nullopt;
  if (!absl::SimpleAtoi(parts[1], &fault.call) || fault.call == 0) return std::nullopt;
  if (parts[3] != "once" && parts[3] != "always") return std::nullopt;
  fault.operation = *operation;
  fault.error = *error;
  fault.once = parts[3] == "once";
  return fault;
}

}  // namespace

FaultInjector::FaultInjector(KvmSyscalls& wrapped, std::vector<Fault> plan, FaultPage* page)
    : wrapped_(wrapped), plan_(std::move(plan)), page_(page) {}

SysResult FaultInjector::OpenKvm() {
  const int error = Count({FaultOperation::Kind::kOpen});
  return error != 0 ? SysResult{-1, error} : wrapped_.OpenKvm();
}

SysResult FaultInjector::Ioctl(BorrowedFd fd, unsigned long request, void* argument) {
  const int error = Count({FaultOperation::Kind::kIoctl, request});
  return error != 0 ? SysResult{-1, error} : wrapped_.Ioctl(fd, request, argument);
}

SysResult FaultInjector::MapShared(BorrowedFd fd, size_t length, off_t offset, void** address) {
  const int error = Count({FaultOperation::Kind::kMap});
  return error != 0 ? SysResult{-1, error} : wrapped_.MapShared(fd, length, offset, address);
}

int FaultInjector::Count(const FaultOperation& operation) {
  if (page_ != nullptr) {
    if (const int error = page_->Count(operation); error != 0) return error;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  const uint64_t call = ++calls_[operation];
  for (const Fault& fault : plan_) {
    if (fault.operation != operation) continue;
    if (fault.once ? call == fault.call : call >= fault.call) {
      ++injected_;
      return fault.error;
    }
  }
  return 0;
}

std::map<std::string, uint64_t> FaultInjector::Calls() const {
  std::lock_guard<std::mutex> guard(mutex_);
  std::map<std::string, uint64_t> named;
  for (const auto& [operation, count] : calls_) named[FaultOperationName(operation)] = count;
  return named;
}

uint64_t FaultInjector::injected() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return injected_;
}

absl::StatusOr<std::vector<Fault>> ParseFaultPlan(std::string_view text,
                                                  uint32_t link_ioctl_number) {
  std::vector<Fault> plan;
  if (text.empty()) return plan;
  const std::vector<std::string> items = absl::StrSplit(std::string(text), ',');
  for (const std::string& item : items) {
    const std::optional<Fault> fault = ParseFault(item, link_ioctl_number);
    if (!fault) {
      return MakeStatus(absl::StatusCode::kInvalidArgument, "FAULT_PLAN_INVALID",
                        absl::StrCat("'", item, "' is not OPERATION:CALL:ERRNO:once|always"));
    }
    plan.push_back(*fault);
  }
  return plan;
}

std::string FaultOperationName(const FaultOperation& operation) {
  switch (operation.kind) {
    case FaultOperation::Kind::kOpen:
      return "OPEN";
    case FaultOperation::Kind::kMap:
      return "MAP";
    case FaultOperation::Kind::kIoctl:
      break;
  }
  for (const NamedRequest& known : kRequests) {
    if (known.request == operation.request) return std::string(known.name);
  }
  return absl::StrCat("0x", absl::Hex(operation.request));
}

}  // namespace rehome
