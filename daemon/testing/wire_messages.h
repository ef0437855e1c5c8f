// SPDX-License-Identifier: Apache-2.0
//
// Sound messages of an agent, as the structs of vmm/agent/protocol.h, for tests to send or to
// spoil.
#ifndef REHOME_DAEMON_TESTING_WIRE_MESSAGES_H_
#define REHOME_DAEMON_TESTING_WIRE_MESSAGES_H_

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvmglue/fd.h"
#include "vmm/agent/protocol.h"

namespace rehome::testing_support {

using Bytes = std::vector<std::byte>;

template <typename T>
Bytes BytesOf(const T& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  return Bytes(raw.begin(), raw.end());
}

template <size_t kSize>
void SetText(char (&field)[kSize], std::string_view text) {
  std::memset(field, 0, kSize);
  std::memcpy(field, text.data(), text.size());
}

rehome_hello MakeHello(rehome_role role);
rehome_register MakeRegister(std::string_view vm_id, std::string_view migration_id = "");
rehome_event MakeEvent(rehome_event_kind kind, std::string_view migration_id,
                       std::string_view text = "");
rehome_refusal_text MakeRefusal(std::string_view text);
rehome_header MakeHeader(rehome_message type, bool is_reply, uint64_t seq, size_t payload_size,
                         size_t fd_count);

Bytes Datagram(const rehome_header& header, const Bytes& payload);

// A description and its arrays, apart so that a test can change any of them.
struct DescriptionParts {
  rehome_description head = {};
  std::vector<rehome_memslot> slots;
  std::vector<rehome_fd_entry> entries;

  // With the counts of `head` as they are.
  Bytes Payload() const;
  void AddEntry(uint32_t role, uint32_t index = 0, std::string_view name = "");
};

// VM "vm-1" with two slots in two memories, config and two named fds; slots refer to inodes that do
// not exist. Counts are right.
DescriptionParts MakeDescriptionParts();

// The same VM on the simulated kernel, with descriptors that fit; digest and inodes are right.
struct DescribedVm {
  DescriptionParts parts;
  std::vector<UniqueFd> fds;  // one for each entry

  std::vector<BorrowedFd> Borrow() const;
  // Recomputes counts and digest after a change.
  void Update();
};
// As an answer to DESCRIBE, or (without config and named fds) to PREPARE.
DescribedVm MakeDescribedVm(bool is_source = true);

// A handover block of `migration_id`.
UniqueFd MakeBlock(const char* migration_id);
// As an answer to HAND_IN, with that block as the last descriptor.
DescribedVm MakeHandedIn(const char* migration_id, bool is_source = true);

// A memfd of `bytes` bytes that cannot be changed any more.
UniqueFd MakeSealedMemfd(size_t bytes);

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_WIRE_MESSAGES_H_
