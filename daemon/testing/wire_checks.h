// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the agent codec have in common.
#ifndef REHOME_DAEMON_TESTING_WIRE_CHECKS_H_
#define REHOME_DAEMON_TESTING_WIRE_CHECKS_H_

#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvmglue/status_reason.h"

namespace rehome::testing_support {

inline void ExpectViolation(const absl::Status& status, const std::string& what) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << what;
  EXPECT_EQ(ReasonOf(status), "AGENT_PROTOCOL_VIOLATION") << what;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(what));
}

template <size_t kSize>
void FillWithoutEnd(char (&field)[kSize]) {
  std::memset(field, 'x', kSize);
}

// A way to spoil a T, and a part of the complaint.
template <typename T>
struct Spoiled {
  std::function<void(T&)> spoil;
  std::string complaint;
};

template <typename T>
T TakeStruct(std::span<const std::byte>& bytes) {
  EXPECT_GE(bytes.size(), sizeof(T));
  T value = {};
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes = bytes.subspan(sizeof(value));
  return value;
}

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_WIRE_CHECKS_H_
