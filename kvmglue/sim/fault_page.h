// SPDX-License-Identifier: Apache-2.0
//
// A page of a file through which a test steers and watches the FaultInjector of another process
// while that process runs: counting begins when the test says so, over any number of processes that
// follow one another (a target, and the one that takes its place).
#ifndef REHOME_KVMGLUE_SIM_FAULT_PAGE_H_
#define REHOME_KVMGLUE_SIM_FAULT_PAGE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/sim/fault_operation.h"

namespace rehome {

// Kinds of calls that are told apart; the project makes some 60.
inline constexpr size_t kMaxFaultKinds = 128;

class FaultPage {
 public:
  // Maps the file, made and zeroed if it is not there. The mapping stays for the life of the
  // process: injectors may use it until then. UNAVAILABLE / FAULT_PAGE_FAILED.
  static absl::StatusOr<FaultPage*> Open(const std::string& path);

  // For the test. Arm() forgets all counts, takes the fault (error 0: none, only count) and begins;
  // REQUIRES: disarmed.
  void Arm(const FaultOperation& operation, uint64_t call, int error, bool once);
  void Disarm() { armed_.store(0); }
  uint64_t injected() const { return injected_.load(); }
  std::map<FaultOperation, uint64_t> Calls() const;

  // For the injector: counts the call; 0, or the errno with which it has to fail.
  int Count(const FaultOperation& operation);

 private:
  struct Kind {
    std::atomic<uint64_t> key;  // 0: free
    std::atomic<uint64_t> calls;
  };
  std::atomic<uint32_t> armed_;
  uint32_t once_;
  uint64_t key_, call_;
  int64_t error_;
  std::atomic<uint64_t> injected_;
  std::array<Kind, kMaxFaultKinds> kinds_;
};

}  // namespace rehome

#endif  // REHOME_KVMGLUE_SIM_FAULT_PAGE_H_
