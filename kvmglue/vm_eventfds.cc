// SPDX-License-Identifier: Apache-2.0
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kvmglue/errno_status.h"
#include "kvmglue/ioctl_call.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/vcpu_traits.h"
#include "kvmglue/vm.h"

namespace rehome {
namespace {

// The only width of an access to virtio-mmio's QueueNotify, and of any register like it.
constexpr uint32_t kIoeventfdBytes = 4;

kvm_irqfd IrqfdOf(BorrowedFd eventfd, uint32_t gsi) {
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(eventfd.raw());
  irqfd.gsi = gsi;
  return irqfd;
}

kvm_ioeventfd IoeventfdOf(BorrowedFd eventfd, uint64_t gpa) {
  kvm_ioeventfd ioeventfd = {};
  ioeventfd.addr = gpa;
  ioeventfd.len = kIoeventfdBytes;
  ioeventfd.fd = eventfd.raw();
  return ioeventfd;
}

}  // namespace

absl::Status Vm::SetIrqLine(uint32_t gsi, bool high) {
  kvm_irq_level line = {};
  line.irq = gsi;
  line.level = high ? 1 : 0;
  return Call(KernelCall::kIrqLine, KVM_IRQ_LINE, &line, absl::StrCat("interrupt ", gsi));
}

absl::Status Vm::AssignIrqfd(BorrowedFd eventfd, uint32_t gsi) {
  const std::string detail = absl::StrCat("interrupt ", gsi);
  // KVM says EINVAL or EAGAIN here, by its age, and that can mean other things.
  if (!traits_->has_irqchip) return ErrnoStatus(KernelCall::kIrqfd, EAGAIN, detail);
  kvm_irqfd irqfd = IrqfdOf(eventfd, gsi);
  return Call(KernelCall::kIrqfd, KVM_IRQFD, &irqfd, detail);
}

absl::Status Vm::DeassignIrqfd(BorrowedFd eventfd, uint32_t gsi) {
  kvm_irqfd irqfd = IrqfdOf(eventfd, gsi);
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  return Call(KernelCall::kIrqfd, KVM_IRQFD, &irqfd, absl::StrCat("let go of interrupt ", gsi));
}

absl::Status Vm::AssignIoeventfd(BorrowedFd eventfd, uint64_t gpa) {
  kvm_ioeventfd ioeventfd = IoeventfdOf(eventfd, gpa);
  return Call(KernelCall::kIoeventfd, KVM_IOEVENTFD, &ioeventfd, absl::StrFormat("gpa %#x", gpa));
}

absl::Status Vm::DeassignIoeventfd(BorrowedFd eventfd, uint64_t gpa) {
  kvm_ioeventfd ioeventfd = IoeventfdOf(eventfd, gpa);
  ioeventfd.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
  return Call(KernelCall::kIoeventfd, KVM_IOEVENTFD, &ioeventfd,
              absl::StrFormat("let go of gpa %#x", gpa));
}

}  // namespace rehome
