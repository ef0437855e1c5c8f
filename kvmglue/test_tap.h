// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_TEST_TAP_H_
#define REHOME_KVMGLUE_TEST_TAP_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rehome::testing {

// A tap interface of a test's own, as `ip tuntap add` makes it: nobody has it open, and it stays
// until the object goes. Not thread-safe.
class TestTap {
 public:
  // `name` is valid and no interface's. UNAVAILABLE, with call and errno: without /dev/net/tun or
  // CAP_NET_ADMIN there is none to be had, and the test is skipped.
  static absl::StatusOr<std::unique_ptr<TestTap>> Make(const std::string& name);
  // Nobody may have it open any more, or it goes with their descriptor.
  ~TestTap();
  TestTap(const TestTap&) = delete;
  TestTap& operator=(const TestTap&) = delete;

  const std::string& name() const { return name_; }

 private:
  explicit TestTap(std::string name) : name_(std::move(name)) {}
  // Sets whether the interface stays without a descriptor.
  static absl::Status Persist(const std::string& name, bool stays);

  const std::string name_;
};

}  // namespace rehome::testing

#endif  // REHOME_KVMGLUE_TEST_TAP_H_
