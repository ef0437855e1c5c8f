// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_TESTING_TEMP_SOCKET_H_
#define REHOME_CLIENT_TESTING_TEMP_SOCKET_H_

#include <string>

namespace rehome::testing {

// A place for a UNIX socket: a directory of its own under /tmp, because TEST_TMPDIR can be longer
// than the 107 bytes that a socket's path may have. Removed with everything in it.
class TempSocket {
 public:
  TempSocket();
  ~TempSocket();
  TempSocket(const TempSocket&) = delete;
  TempSocket& operator=(const TempSocket&) = delete;

  const std::string& directory() const { return directory_; }
  std::string path() const { return directory_ + "/s"; }

 private:
  std::string directory_;
};

}  // namespace rehome::testing

#endif  // REHOME_CLIENT_TESTING_TEMP_SOCKET_H_
