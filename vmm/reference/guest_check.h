// SPDX-License-Identifier: Apache-2.0
//
// Tells whether the built-in guest is intact: recomputes from its seed and its number of steps what
// every vCPU's chain and every work page must hold, and compares. It can fail: guest_check_test.cc
// plants lost, doubled and stale writes and expects each to be named.
#ifndef REHOME_VMM_REFERENCE_GUEST_CHECK_H_
#define REHOME_VMM_REFERENCE_GUEST_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/reference/guest/guest_abi.h"
#include "vmm/reference/guest/step.h"
#include "vmm/reference/guest_memory_reader.h"

namespace rehome {

struct GuestReport {
  bool intact = false;
  std::string difference;  // the first one, for people; empty if intact
  uint64_t steps = 0;      // of all vCPUs
  uint64_t errors = 0;     // that the guest itself counted
  uint64_t ticks = 0;
  uint64_t heartbeats = 0;
  uint64_t pages_compared = 0;
};

// "PAGE", "FUTURE", ...; "UNKNOWN" for a number outside the enum.
const char* GuestErrorName(uint64_t kind);

// Recomputation of one vCPU.
class GuestModel {
 public:
  GuestModel(const rehome_guest_area& area, uint64_t seed, uint32_t vcpu);

  // Runs on to `steps` steps. REQUIRES: steps >= this->steps().
  void AdvanceTo(uint64_t steps);

  struct Word {
    uint64_t value = 0;
    uint64_t step = 0;
    friend bool operator==(const Word&, const Word&) = default;
  };
  struct Step {
    uint64_t page = 0;
    Word word;
    uint64_t chain = 0;
  };
  // What the next step will write, without taking it.
  Step Peek() const;

  const rehome_guest_area& area() const { return area_; }
  uint64_t steps() const { return steps_; }
  uint64_t chain() const { return chain_; }
  const Word& word(uint64_t page) const { return words_[page]; }

 private:
  rehome_guest_area area_;
  uint64_t chain_;
  uint64_t steps_ = 0;
  std::vector<Word> words_;
};

// Follows one guest over its life; a later check costs only the steps since the earlier one. Not
// thread-safe.
class GuestChecker {
 public:
  // REQUIRES: no vCPU of the guest runs meanwhile. It may have been stopped between any two
  // instructions: the writes of one unfinished step are accepted up to any point.
  // The report says what is wrong with the guest; an error only that it could not be read:
  // FAILED_PRECONDITION / GUEST_NOT_FOUND if that RAM does not hold the built-in guest,
  // OUT_OF_RANGE / GUEST_RAM_RANGE.
  absl::StatusOr<GuestReport> Check(const GuestMemoryReader& memory);

 private:
  std::vector<GuestModel> models_;
  uint64_t seed_ = 0;
};

// Boot information, validated: magic, version, counts and sizes within bounds. Errors as for
// Check().
absl::StatusOr<rehome_guest_boot_info> ReadBootInfo(const GuestMemoryReader& memory);
absl::StatusOr<rehome_guest_mailbox> ReadMailbox(const GuestMemoryReader& memory, uint32_t vcpu);

// FNV-1a, as in rehome_guest_boot_info::code_digest.
uint64_t GuestCodeDigest(std::span<const uint8_t> code);

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_GUEST_CHECK_H_
