// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/vcpu_traits.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

constexpr uint32_t kMsrTsc = 0x10;

// MSRs that KVM emulates for every guest: their values are KVM's own also where the registers of
// the guest are encrypted, and MOVE does not carry them. System time and wall clock (old and new
// numbers), async page fault, steal time, PV EOI, poll control, migration control; TSC deadline.
constexpr uint32_t kMsrsOfProtectedVcpus[] = {
    0x11,       0x12,       0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03,
    0x4b564d04, 0x4b564d05, 0x4b564d06, 0x4b564d07, 0x4b564d08, 0x6e0,
};

bool IsWanted(const VcpuTraits& traits, uint32_t index, bool has_tsc_offset) {
  if (index == kMsrTsc && has_tsc_offset) return false;
  if (!traits.registers_protected) return true;
  return std::find(std::begin(kMsrsOfProtectedVcpus), std::end(kMsrsOfProtectedVcpus), index) !=
         std::end(kMsrsOfProtectedVcpus);
}

// KVM lists what it may save on some CPU; what this one refuses shows only in the attempt.
bool CanGetAndSet(KvmSyscalls& kernel, BorrowedFd vcpu, uint32_t index) {
  struct {
    uint32_t count, pad;
    kvm_msr_entry entry;
  } one = {.count = 1, .pad = 0, .entry = {.index = index, .reserved = 0, .data = 0}};
  static_assert(offsetof(decltype(one), entry) == offsetof(kvm_msrs, entries));
  return kernel.Ioctl(vcpu, KVM_GET_MSRS, &one).value == 1 &&
         kernel.Ioctl(vcpu, KVM_SET_MSRS, &one).value == 1;
}

}  // namespace

absl::Status FindMsrs(VcpuTraits& traits, BorrowedFd vcpu, bool has_tsc_offset) {
  const std::lock_guard lock(traits.mutex);
  if (traits.msrs_known) return absl::OkStatus();
  VcpuMsrs found = {};
  for (const uint32_t index : traits.msr_candidates) {
    if (!IsWanted(traits, index, has_tsc_offset)) continue;
    if (!CanGetAndSet(*traits.kernel, vcpu, index)) continue;
    if (found.count == kMaxMsrs) {
      return MakeStatus(absl::StatusCode::kFailedPrecondition, "TOO_MANY_MSRS",
                        absl::StrCat("this CPU has more than ", kMaxMsrs, " MSRs to save"));
    }
    found.entries[found.count++].index = index;
  }
  traits.msrs = found;
  traits.msrs_known = true;
  return absl::OkStatus();
}

}  // namespace rehome
