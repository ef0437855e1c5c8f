// SPDX-License-Identifier: Apache-2.0
//
// A picture that turns while somebody waits, and the thread that redraws for it.
#ifndef REHOME_CLIENT_CLI_SPINNER_H_
#define REHOME_CLIENT_CLI_SPINNER_H_

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace rehome {

// Make it the last member of what it redraws, so that it ends first.
class Spinner {
 public:
  // From now on `redraw` is called ten times a second, on a thread of its own and with `mutex`
  // held, until Stop(). `mutex` must outlive the object.
  Spinner(bool unicode, std::mutex* mutex, std::function<void()> redraw);
  // REQUIRES: Stop() was called; `mutex` is not held.
  ~Spinner();
  Spinner(const Spinner&) = delete;
  Spinner& operator=(const Spinner&) = delete;

  // These REQUIRE `mutex`. The picture as it stands now; one character wide.
  std::string picture() const;
  // `redraw` is not called again. Idempotent.
  void Stop();

 private:
  void Turn();

  const bool unicode_;
  std::mutex* const mutex_;
  const std::function<void()> redraw_;
  std::condition_variable wake_;
  // Guarded by *mutex_.
  size_t frame_ = 0;
  bool stopped_ = false;

  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_CLIENT_CLI_SPINNER_H_
