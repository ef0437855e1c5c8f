// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/threads.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/chaos/stage.h"
#include "tests/harness/eventually.h"
#include "tests/harness/proc.h"

namespace rehome::chaos {

absl::Status AwaitThreads(pid_t pid, const char* states) {
  const bool are = harness::Eventually(kArriveTimeout, [&] {
    return harness::ThreadStates(pid).find_first_not_of(states) == std::string::npos;
  });
  if (are) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a thread of ", pid, " is not in any of ", states));
}

}  // namespace rehome::chaos
