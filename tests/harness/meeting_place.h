// SPDX-License-Identifier: Apache-2.0
//
// The other end of rehome-vmm's --meet-at: learns that a VMM has reached a place of a migration,
// and holds it there. Holding a VMM also holds the daemon in the step that waits for it.
#ifndef REHOME_TESTS_HARNESS_MEETING_PLACE_H_
#define REHOME_TESTS_HARNESS_MEETING_PLACE_H_

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "tests/harness/process.h"

namespace rehome::harness {

// Not thread-safe. One VMM is met at a time; whoever reaches the place after Release() passes it.
class MeetingPlace {
 public:
  struct Arrival {
    std::string place;  // vmm/reference/test_hooks.h
    pid_t pid = 0;
  };

  static absl::StatusOr<MeetingPlace> Open();

  // For --meet-socket.
  std::string path() const { return directory_->File("meet.sock"); }

  // Whether a VMM has come, or comes within that time; Await() then finds it.
  bool SomebodyIsHere(std::chrono::milliseconds timeout) const;
  // The next VMM to come; it stays until LetGo() or Release(). DEADLINE_EXCEEDED: nobody came.
  absl::StatusOr<Arrival> Await(std::chrono::milliseconds timeout);
  // Lets it go; others are still waited for, and wait. Nothing if nobody is here.
  void LetGo() { guest_.Reset(); }
  // Lets it go, and nobody waits here any more. Nothing if nobody is here.
  void Release();

 private:
  MeetingPlace() = default;

  std::unique_ptr<TempDir> directory_;
  UniqueFd listener_;
  UniqueFd guest_;
};

}  // namespace rehome::harness

#endif  // REHOME_TESTS_HARNESS_MEETING_PLACE_H_
