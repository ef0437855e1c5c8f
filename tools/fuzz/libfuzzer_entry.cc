// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstddef>
#include <cstdint>

#include "tools/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // As in every program of ours that writes to sockets.
  std::signal(SIGPIPE, SIG_IGN);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)rehome::fuzz::Feed(std::as_bytes(std::span(data, size)));
  return 0;
}
