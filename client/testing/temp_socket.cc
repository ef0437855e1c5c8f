// SPDX-License-Identifier: Apache-2.0
#include "client/testing/temp_socket.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <system_error>

namespace rehome::testing {

TempSocket::TempSocket() : directory_("/tmp/rehome-XXXXXX") {
  if (mkdtemp(directory_.data()) != nullptr) return;
  std::cerr << "cannot make a directory under /tmp\n";
  std::abort();
}

TempSocket::~TempSocket() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

}  // namespace rehome::testing
