// SPDX-License-Identifier: Apache-2.0
//
// For tests: where VMMs that are told so (--meet-at) say that they have reached a place, and wait.
#ifndef REHOME_VMM_REFERENCE_MEETING_H_
#define REHOME_VMM_REFERENCE_MEETING_H_

#include <string>
#include <string_view>
#include <vector>

#include "kvmglue/fd.h"

namespace rehome {

// A listening socket in a directory of its own.
class Meeting {
 public:
  Meeting();
  ~Meeting();

  // Options that send a VMM here from each of `places`.
  std::vector<std::string> Options(const std::vector<std::string>& places) const;
  const std::string& path() const { return path_; }
  // Waits for a process to reach `place`, which must be the next one; it goes on when the returned
  // descriptor is closed. Invalid, after an ADD_FAILURE, if it does not come.
  UniqueFd Await(std::string_view place);
  // Nobody waits here any more.
  void Close() { listener_.Reset(); }

 private:
  std::string directory_, path_;
  UniqueFd listener_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_MEETING_H_
