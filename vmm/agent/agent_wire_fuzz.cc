// SPDX-License-Identifier: Apache-2.0
//
// One datagram with descriptors against the C library's receiver, at either end. Promises: a
// message that is refused leaves no descriptor open; one that is accepted has the counts that it
// says, and a description in it says the same when it is sent on.
#include <cerrno>
#include <cstring>

#include "kvmglue/fd_passing.h"
#include "tools/fuzz/descriptors.h"
#include "tools/fuzz/fuzz_target.h"
#include "vmm/agent/description.h"
#include "vmm/agent/wire.h"

namespace rehome::fuzz {
namespace {

constexpr uint32_t kAllRoles =
    REHOME_DESCRIBED_ROLES | REHOME_ROLE_BIT(REHOME_FD_BLOCK) | REHOME_ROLE_BIT(REHOME_FD_VM);

// Where the description begins in the payload; SIZE_MAX if there is none.
size_t DescriptionOffset(const rehome_packet& packet) {
  const bool is_reply = (packet.header.flags & REHOME_FLAG_REPLY) != 0;
  if (packet.header.status != 0) return SIZE_MAX;
  if (packet.header.type == REHOME_MSG_DESCRIBE && is_reply) return 0;
  if (packet.header.type == REHOME_MSG_PREPARE) return is_reply ? 0 : sizeof(rehome_prepare);
  return SIZE_MAX;
}

bool SameEntries(const rehome_vm& a, const rehome_vm& b) {
  for (uint32_t i = 0; i < a.fd_count; ++i) {
    if (std::memcmp(&a.fds[i].entry, &b.fds[i].entry, sizeof(a.fds[i].entry)) != 0) return false;
  }
  return true;
}

// What was understood is put into words again, and those are understood the same.
bool CheckDescription(const rehome_packet& packet, size_t offset) {
  static rehome_vm vm, again;
  static rehome_packet copy;
  if (rehome_description_parse(&packet, offset, kAllRoles, &vm) != nullptr) return false;
  REHOME_PROMISE(vm.fd_count == packet.header.fd_count && vm.slot_count <= REHOME_MAX_SLOTS);
  rehome_packet_init(&copy, REHOME_MSG_DESCRIBE, REHOME_FLAG_REPLY, 1);
  rehome_description_append(&copy, &vm);
  REHOME_PROMISE(rehome_description_parse(&copy, 0, kAllRoles, &again) == nullptr);
  REHOME_PROMISE(std::strcmp(again.vm_id, vm.vm_id) == 0 && again.vm_type == vm.vm_type &&
                 again.vcpu_count == vm.vcpu_count && again.state_capacity == vm.state_capacity &&
                 again.layout_digest == vm.layout_digest && again.state_format == vm.state_format &&
                 again.state_format_oldest == vm.state_format_oldest &&
                 again.slot_count == vm.slot_count && again.fd_count == vm.fd_count);
  REHOME_PROMISE(std::memcmp(again.slots, vm.slots, vm.slot_count * sizeof(vm.slots[0])) == 0);
  REHOME_PROMISE(SameEntries(vm, again));
  return true;
}

bool Receive(BorrowedFd socket, rehome_end end) {
  static rehome_packet packet;
  const int result = rehome_wire_receive(socket.raw(), end, &packet);
  REHOME_PROMISE(result == 0 || result == -EPROTO || result == -EAGAIN);
  if (result != 0) return false;
  REHOME_PROMISE(packet.header.fd_count <= REHOME_MAX_FDS);
  REHOME_PROMISE(packet.header.payload_size <= REHOME_MAX_PAYLOAD);
  const size_t offset = DescriptionOffset(packet);
  const bool sound = offset == SIZE_MAX || CheckDescription(packet, offset);
  rehome_packet_close_fds(&packet);
  return sound;
}

template <typename T>
Seed MakeSeed(const char* name, rehome_end end, rehome_message type, uint32_t flags,
              const T& payload, std::vector<FdKind> fds = {}) {
  static rehome_packet packet;
  rehome_packet_init(&packet, type, flags, 7);
  rehome_packet_append(&packet, payload.data(), payload.size());
  packet.header.fd_count = static_cast<uint32_t>(fds.size());
  Seed seed{.name = name, .bytes = {}};
  Append(seed.bytes, static_cast<uint8_t>(end));
  Append(seed.bytes, static_cast<uint8_t>(fds.size()));
  for (FdKind kind : fds) Append(seed.bytes, kind);
  AppendBytes(seed.bytes, std::as_bytes(std::span(&packet.header, 1)));
  AppendBytes(seed.bytes, payload);
  return seed;
}

template <typename T>
Bytes BytesOf(const T& value) {
  Bytes bytes;
  Append(bytes, value);
  return bytes;
}

Bytes Description(bool with_block) {
  rehome_description fixed = {};
  std::strcpy(fixed.vm_id, "vm-1");
  fixed.vcpu_count = 2;
  fixed.slot_count = 1;
  fixed.fd_count = with_block ? 3 : 2;
  fixed.state_format = 1;
  const rehome_memslot slot = {.size = kMemoryBytes};
  Bytes bytes = BytesOf(fixed);
  Append(bytes, slot);
  Append(bytes, rehome_fd_entry{.role = REHOME_FD_VM});
  Append(bytes, rehome_fd_entry{.role = REHOME_FD_MEMORY});
  if (with_block) Append(bytes, rehome_fd_entry{.role = REHOME_FD_BLOCK});
  return bytes;
}

Bytes Prepare() {
  rehome_prepare prepare = {};
  std::strcpy(prepare.migration_id, "m-1");
  prepare.strategy = REHOME_STRATEGY_MAP;
  prepare.fence_policy = REHOME_FENCE_AFTER_RESUME;
  Bytes bytes = BytesOf(prepare);
  AppendBytes(bytes, Description(true));
  return bytes;
}

}  // namespace

// One byte: which end receives. One byte: how many descriptors, one byte each: of what kind. The
// rest is the datagram.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const rehome_end end = in.Take<uint8_t>() % 2 == 0 ? REHOME_END_AGENT : REHOME_END_DAEMON;
  const auto kinds = in.TakeBytes(in.Take<uint8_t>() % (REHOME_MAX_FDS + 2));
  OpenKind(0);  // what it keeps open for good is not counted as a leak
  const size_t before = CountOpenFds();
  bool sound = false;
  {
    const auto pair = CreateSocketPair();
    REHOME_PROMISE(pair.ok());
    std::vector<UniqueFd> fds;
    for (std::byte kind : kinds) fds.push_back(OpenKind(static_cast<uint8_t>(kind)));
    const Bytes datagram(in.rest().begin(), in.rest().end());
    // An empty datagram reads as the end of the connection, which is another matter.
    if (datagram.empty()) return false;
    SendAnything(pair->first.borrow(), datagram, fds);
    sound = Receive(pair->second.borrow(), end);
  }
  REHOME_PROMISE(CountOpenFds() == before);
  return sound;
}

std::vector<Seed> Seeds() {
  rehome_migration_ref reference = {};
  std::strcpy(reference.migration_id, "m-1");
  rehome_describe describe = {};
  std::strcpy(describe.migration_id, "m-1");
  describe.hold = 1;
  rehome_arm arm = {};
  std::strcpy(arm.migration_id, "m-1");
  const rehome_arm_source arm_with_format = {.arm = arm, .state_format = 1};
  rehome_register vm = {};
  std::strcpy(vm.vm_id, "vm-1");
  vm.vcpu_count = 1;
  return {
      MakeSeed("describe", REHOME_END_AGENT, REHOME_MSG_DESCRIBE, 0, BytesOf(describe)),
      MakeSeed("prepare", REHOME_END_AGENT, REHOME_MSG_PREPARE, 0, Prepare(),
               {FdKind::kMemory, FdKind::kMemory, FdKind::kSealedConfig}),
      MakeSeed("arm-target", REHOME_END_AGENT, REHOME_MSG_ARM_TARGET, 0, BytesOf(arm),
               {FdKind::kOwnPidfd}),
      MakeSeed("arm-source", REHOME_END_AGENT, REHOME_MSG_ARM_SOURCE, 0, BytesOf(arm),
               {FdKind::kSealedConfig, FdKind::kOwnPidfd}),
      MakeSeed("arm-source-format", REHOME_END_AGENT, REHOME_MSG_ARM_SOURCE, 0,
               BytesOf(arm_with_format), {FdKind::kSealedConfig, FdKind::kOwnPidfd}),
      MakeSeed("start", REHOME_END_AGENT, REHOME_MSG_START, 0, BytesOf(reference)),
      MakeSeed("hello-reply", REHOME_END_AGENT, REHOME_MSG_HELLO, REHOME_FLAG_REPLY,
               BytesOf(rehome_hello_reply{.version = 1})),
      MakeSeed("register", REHOME_END_DAEMON, REHOME_MSG_REGISTER, 0, BytesOf(vm)),
      MakeSeed("describe-reply", REHOME_END_DAEMON, REHOME_MSG_DESCRIBE, REHOME_FLAG_REPLY,
               Description(false), {FdKind::kMemory, FdKind::kOtherMemory}),
      MakeSeed("probe-reply", REHOME_END_DAEMON, REHOME_MSG_PROBE, REHOME_FLAG_REPLY,
               BytesOf(rehome_probe{.vm_alive = 1})),
  };
}

}  // namespace rehome::fuzz
