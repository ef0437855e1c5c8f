// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vcpu.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvmglue/kvm_abi.h"
#include "kvmglue/status_reason.h"
#include "kvmglue/vcpu_known.h"
#include "kvmglue/vcpu_traits.h"

namespace rehome {
namespace {

VcpuExit Classify(uint32_t exit_reason) {
  switch (exit_reason) {
    case KVM_EXIT_INTR:
      return VcpuExit::kInterrupted;
    case KVM_EXIT_IO:
      return VcpuExit::kIo;
    case KVM_EXIT_MMIO:
      return VcpuExit::kMmio;
    case KVM_EXIT_HLT:
      return VcpuExit::kHalt;
    case KVM_EXIT_SHUTDOWN:
      return VcpuExit::kShutdown;
    case KVM_EXIT_SYSTEM_EVENT:
      return VcpuExit::kSystemEvent;
    case KVM_EXIT_MEMORY_FAULT:
      return VcpuExit::kMemoryFault;
    case KVM_EXIT_INTERNAL_ERROR:
    case KVM_EXIT_FAIL_ENTRY:
      return VcpuExit::kInternalError;
  }
  return VcpuExit::kUnknown;  // the kernel's list is open-ended
}

}  // namespace

Vcpu::Vcpu(std::shared_ptr<VcpuTraits> traits, uint32_t index, UniqueFd fd, kvm_run* run)
    : traits_(std::move(traits)), index_(index), fd_(std::move(fd)), run_(run) {}

Vcpu::~Vcpu() { munmap(run_, traits_->run_bytes); }

absl::Status Vcpu::Call(KernelCall call, unsigned long request, void* argument,
                        const char* name) const {
  const SysResult result = traits_->kernel->Ioctl(fd(), request, argument);
  if (result.ok()) return absl::OkStatus();
  return ErrnoStatus(call, result.error, absl::StrCat(name, " of vCPU ", index_));
}

absl::StatusOr<VcpuExit> Vcpu::Run() {
  known_is_true_ = false;
  const SysResult result = traits_->kernel->Ioctl(fd(), KVM_RUN, nullptr);
  io_pending_ = result.ok();
  if (result.ok()) return Classify(run_->exit_reason);
  // EAGAIN: an application processor got its first INIT or SIPI; enter again.
  if (result.error == EINTR || result.error == EAGAIN) return VcpuExit::kInterrupted;
  // KVM_EXIT_MEMORY_FAULT is an exit dressed as an error (api.rst, "KVM_EXIT_MEMORY_FAULT").
  if ((result.error == EFAULT || result.error == EHWPOISON) &&
      run_->exit_reason == KVM_EXIT_MEMORY_FAULT) {
    return VcpuExit::kMemoryFault;
  }
  return ErrnoStatus(KernelCall::kRun, result.error, absl::StrCat("vCPU ", index_));
}

void Vcpu::RequestImmediateExit() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(1, std::memory_order_release);
}

void Vcpu::ClearImmediateExit() {
  std::atomic_ref<uint8_t>(run_->immediate_exit).store(0, std::memory_order_release);
}

void Vcpu::Kick(pthread_t thread, int signal_number) {
  RequestImmediateExit();
  pthread_kill(thread, signal_number);
}

absl::Status Vcpu::CompletePendingIo() {
  RequestImmediateExit();
  const absl::StatusOr<VcpuExit> exit = Run();
  if (!exit.ok()) return exit.status();
  if (*exit == VcpuExit::kInterrupted) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kFailedPrecondition, "IO_PENDING",
                    absl::StrCat("vCPU ", index_, " makes another access: ", DescribeExit()));
}

PortIo Vcpu::io() const {
  const auto& io = run_->io;
  const size_t bytes = size_t{io.size} * io.count;
  // The page is shared with whoever else has the vCPU's fd, so its numbers are checked.
  if (bytes > traits_->run_bytes || io.data_offset > traits_->run_bytes - bytes) return {};
  uint8_t* data = reinterpret_cast<uint8_t*>(run_) + io.data_offset;
  return {.port = io.port,
          .is_out = io.direction == KVM_EXIT_IO_OUT,
          .width = io.size,
          .count = io.count,
          .data = {data, bytes}};
}

MmioAccess Vcpu::mmio() const {
  auto& mmio = run_->mmio;
  const size_t bytes = std::min<size_t>(mmio.len, sizeof(mmio.data));
  return {.gpa = mmio.phys_addr, .is_write = mmio.is_write != 0, .data = {mmio.data, bytes}};
}

MemoryFault Vcpu::fault() const {
  MemoryFaultExit fault;
  static_assert(sizeof(fault) <= sizeof(run_->padding));
  std::memcpy(&fault, run_->padding, sizeof(fault));
  return {.gpa = fault.gpa,
          .size = fault.size,
          .is_private = (fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE) != 0};
}

std::string Vcpu::DescribeExit() const {
  std::string text = absl::StrCat("exit_reason ", run_->exit_reason);
  if (run_->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    absl::StrAppend(&text, " (internal error), suberror ", run_->internal.suberror);
  } else if (run_->exit_reason == KVM_EXIT_FAIL_ENTRY) {
    absl::StrAppend(&text, " (failed entry), hardware reason ",
                    absl::Hex(run_->fail_entry.hardware_entry_failure_reason));
  } else if (run_->exit_reason == KVM_EXIT_SYSTEM_EVENT) {
    absl::StrAppend(&text, " (system event), type ", run_->system_event.type);
  } else if (run_->exit_reason == KVM_EXIT_IO) {
    absl::StrAppend(&text, " (I/O), port ", absl::Hex(run_->io.port));
  } else if (run_->exit_reason == KVM_EXIT_MMIO) {
    absl::StrAppend(&text, " (MMIO), gpa ", absl::Hex(run_->mmio.phys_addr));
  }
  return text;
}

}  // namespace rehome
