// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_VMM_REFERENCE_VMM_EVENTS_H_
#define REHOME_VMM_REFERENCE_VMM_EVENTS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"

namespace rehome {

// What the other threads tell the main thread.
struct VmmEvent {
  enum class Kind : uint8_t {
    kPowerOff,        // the guest ended as it wanted to
    kGuestFailed,     // the guest crashed, or could not be run
    kFirstRun,        // a guest that was taken over runs
    kTakeOverFailed,  // it will never run here; text "" if somebody else decided that
  };
  Kind kind;
  std::string text;
};

// Thread-safe. Few events ever happen in the life of a VMM, so there is no bound on their number.
class VmmEvents {
 public:
  static absl::StatusOr<std::unique_ptr<VmmEvents>> Create();

  void Post(VmmEvent::Kind kind, std::string text);
  std::optional<VmmEvent> Take();
  // Readable while there are events; Take() until there are none.
  BorrowedFd fd() const { return wake_.borrow(); }

 private:
  explicit VmmEvents(UniqueFd wake) : wake_(std::move(wake)) {}

  const UniqueFd wake_;  // eventfd, semaphore: one count per event
  std::mutex mutex_;
  std::deque<VmmEvent> events_;  // guarded by mutex_
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_VMM_EVENTS_H_
