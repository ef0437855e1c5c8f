// SPDX-License-Identifier: Apache-2.0
//
// Descriptors of every kind that a peer can send, for targets that receive some.
#ifndef REHOME_TOOLS_FUZZ_DESCRIPTORS_H_
#define REHOME_TOOLS_FUZZ_DESCRIPTORS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvmglue/fd.h"

namespace rehome::fuzz {

// Bytes of each memory file; page-aligned.
inline constexpr size_t kMemoryBytes = 64 << 10;

enum class FdKind : uint8_t {
  kMemory,        // the same file each time
  kOtherMemory,   // a second one, the same each time
  kSealedConfig,  // a small memfd that cannot change any more
  kEmptyMemfd,
  kDevNull,
  kDirectory,
  kPipe,
  kSocket,
  kEventFd,
  kOwnPidfd,
  kCount,
};

// A new descriptor of that kind (taken modulo the number of kinds). Ends the process if it cannot.
UniqueFd OpenKind(uint8_t kind);

// Open descriptors of this process.
size_t CountOpenFds();

// Sends `bytes` with `fds`, however many and whatever they are. False if the socket does not take
// it.
bool SendAnything(BorrowedFd socket, const std::vector<std::byte>& bytes,
                  const std::vector<UniqueFd>& fds);

}  // namespace rehome::fuzz

#endif  // REHOME_TOOLS_FUZZ_DESCRIPTORS_H_
