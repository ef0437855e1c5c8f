// SPDX-License-Identifier: Apache-2.0
//
// How a test and the message faults in a VMM's process (message_faults.cc) speak: one page of a
// file that both have mapped. All members are words, for which a file of zeroes is a valid state.
#ifndef REHOME_TESTS_MESSAGE_FAULT_PAGE_H_
#define REHOME_TESTS_MESSAGE_FAULT_PAGE_H_

#include <atomic>
#include <cstdint>

namespace rehome {

// Environment variable with the page's path.
inline constexpr char kMessageFaultVariable[] = "MESSAGE_FAULT_PAGE";

enum class MessageFault : uint32_t {
  kNone,
  kCut,     // the connection ends instead of the message
  kDrop,    // the message vanishes, and its sender does not know
  kGarble,  // its payload_size is off by one
};
enum class Direction : uint32_t { kToDaemon, kToAgent };

struct MessageFaultPage {
  std::atomic<uint32_t> armed;  // 0: nothing is counted, nothing fails
  MessageFault fault;
  Direction direction;
  uint32_t once;                    // or from that message on
  uint64_t message;                 // the first one in that direction is 1
  std::atomic<uint64_t> counts[2];  // by Direction
  std::atomic<uint64_t> injected;
};

}  // namespace rehome

#endif  // REHOME_TESTS_MESSAGE_FAULT_PAGE_H_
