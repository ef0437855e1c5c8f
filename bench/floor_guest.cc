// SPDX-License-Identifier: Apache-2.0
#include "bench/floor_guest.h"

#include <errno.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "bench/floor_shared.h"
#include "kvmglue/os_kvm_syscalls.h"

namespace rehome::bench {
namespace {

// A vCPU of an overcommitted host gets its turn within some 10 ms.
constexpr int kAnswerTimeoutMs = 10'000;

template <typename Predicate>
void AwaitAnswer(const char* what, Predicate answered) {
  for (int waited = 0; !answered(); ++waited) {
    if (waited == kAnswerTimeoutMs) {
      errno = ETIMEDOUT;
      FloorDie(what);
    }
    FloorSleepMs(1);
  }
}

const volatile rehome_guest_boot_info& BootInfo(const unsigned char* low) {
  return *reinterpret_cast<const rehome_guest_boot_info*>(low + REHOME_GUEST_BOOT_INFO);
}

}  // namespace

FloorGuest::FloorGuest(int vcpus, uint64_t memory_mib, uint64_t working_set_pages, bool memfd)
    : options_({.vm_id = "floor",
                .memory_mib = memory_mib,
                .memory_kind = memfd ? MemoryKind::kMemfd : MemoryKind::kGuestMemfd,
                .vcpus = static_cast<uint32_t>(vcpus),
                .heartbeat_ms = 0,  // nobody listens here
                .working_set_pages = working_set_pages}),
      kernel_(OpenRealKvm()) {}

FloorGuest::~FloorGuest() = default;

std::unique_ptr<FloorVm> FloorGuest::Start() {
  absl::StatusOr<std::unique_ptr<Machine>> machine = Machine::Start({.kernel = *kernel_}, options_);
  if (!machine.ok()) FloorDie(machine.status().ToString().c_str());
  machine_ = *std::move(machine);
  const auto duplicate = [](BorrowedFd fd) {
    absl::StatusOr<UniqueFd> copy = Duplicate(fd);
    if (!copy.ok()) FloorDie("dup");
    return *std::move(copy);
  };
  std::vector<UniqueFd> vcpus;
  for (const std::unique_ptr<Vcpu>& vcpu : machine_->vcpus()) {
    vcpus.push_back(duplicate(vcpu->fd()));
  }
  return std::make_unique<FloorVm>(duplicate(machine_->vm().fd()), std::move(vcpus));
}

BorrowedFd FloorGuest::memory() const { return machine_->ram().file(0); }

volatile rehome_guest_mailbox& FloorMailboxes::mailbox(int vcpu) const {
  const uint64_t offset = REHOME_GUEST_MAILBOXES + REHOME_GUEST_MAILBOX_STRIDE * vcpu;
  return *reinterpret_cast<rehome_guest_mailbox*>(low_ + offset);
}

void FloorMailboxes::AwaitStart() const {
  for (int i = 0; i < vcpus_; ++i) {
    AwaitAnswer("a vCPU does not start", [&] { return mailbox(i).magic == REHOME_GUEST_MAGIC; });
  }
}

void FloorMailboxes::ResetGaps() const {
  for (int i = 0; i < vcpus_; ++i) mailbox(i).gap_reset_request = mailbox(i).gap_reset_done + 1;
  for (int i = 0; i < vcpus_; ++i) {
    AwaitAnswer("a vCPU does not answer",
                [&] { return mailbox(i).gap_reset_done == mailbox(i).gap_reset_request; });
  }
}

double FloorMailboxes::LongestGapUs() const {
  uint64_t longest = 0;
  for (int i = 0; i < vcpus_; ++i) {
    const uint64_t gap = mailbox(i).gap_max;
    longest = std::max(longest, gap);
  }
  return static_cast<double>(longest) * 1000 / static_cast<double>(BootInfo(low_).tsc_khz);
}

uint64_t FloorMailboxes::Errors() const {
  uint64_t errors = 0;
  for (int i = 0; i < vcpus_; ++i) {
    for (int kind = 0; kind < REHOME_GUEST_ERROR_KINDS; ++kind) errors += mailbox(i).errors[kind];
  }
  return errors;
}

}  // namespace rehome::bench
