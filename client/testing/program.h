// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_CLIENT_TESTING_PROGRAM_H_
#define REHOME_CLIENT_TESTING_PROGRAM_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace rehome::testing {

// A running `rehome`, its standard output and standard error in one pipe. Failures are the test's.
class Program {
 public:
  explicit Program(std::vector<std::string> arguments);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Interrupt();
  // Reads until what was written contains `text`; false if it ends before.
  bool AwaitText(const std::string& text);
  // Its wait status, once it has ended.
  int Wait();
  const std::string& written() const { return written_; }

 private:
  // False at the end.
  bool ReadMore();

  pid_t pid_ = -1;
  int output_ = -1;
  std::string written_;
};

}  // namespace rehome::testing

#endif  // REHOME_CLIENT_TESTING_PROGRAM_H_
