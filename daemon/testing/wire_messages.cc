// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/wire_messages.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "vmm/agent/handover_block.h"

namespace rehome::testing_support {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMemoryPages = 16;

void Append(Bytes& bytes, const Bytes& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

}  // namespace

rehome_hello MakeHello(rehome_role role) {
  rehome_hello hello = {};
  hello.version_min = 1;
  hello.version_max = REHOME_PROTOCOL_VERSION;
  hello.features = REHOME_FEATURES_ALL;
  hello.role = role;
  hello.state_format_write = 2;
  hello.state_format_read_min = 1;
  hello.state_format_read_max = 2;
  SetText(hello.vmm_name, "test-vmm");
  SetText(hello.vmm_version, "1.0");
  return hello;
}

rehome_register MakeRegister(std::string_view vm_id, std::string_view migration_id) {
  rehome_register vm = {};
  SetText(vm.vm_id, vm_id);
  vm.vm_type = 0;
  vm.vcpu_count = 2;
  vm.memory_bytes = 2 * kMemoryPages * kPage;
  SetText(vm.migration_id, migration_id);
  return vm;
}

rehome_event MakeEvent(rehome_event_kind kind, std::string_view migration_id,
                       std::string_view text) {
  rehome_event event = {};
  event.kind = kind;
  SetText(event.migration_id, migration_id);
  SetText(event.text, text);
  return event;
}

rehome_refusal_text MakeRefusal(std::string_view text) {
  rehome_refusal_text refusal = {};
  SetText(refusal.text, text);
  return refusal;
}

rehome_header MakeHeader(rehome_message type, bool is_reply, uint64_t seq, size_t payload_size,
                         size_t fd_count) {
  rehome_header header = {};
  header.magic = REHOME_PROTOCOL_MAGIC;
  header.version = REHOME_PROTOCOL_VERSION;
  header.type = static_cast<uint16_t>(type);
  header.flags = is_reply ? REHOME_FLAG_REPLY : 0;
  header.seq = seq;
  header.payload_size = static_cast<uint32_t>(payload_size);
  header.fd_count = static_cast<uint32_t>(fd_count);
  return header;
}

Bytes Datagram(const rehome_header& header, const Bytes& payload) {
  Bytes datagram = BytesOf(header);
  Append(datagram, payload);
  return datagram;
}

Bytes DescriptionParts::Payload() const {
  Bytes payload = BytesOf(head);
  for (const rehome_memslot& slot : slots) Append(payload, BytesOf(slot));
  for (const rehome_fd_entry& entry : entries) Append(payload, BytesOf(entry));
  return payload;
}

void DescriptionParts::AddEntry(uint32_t role, uint32_t index, std::string_view name) {
  rehome_fd_entry entry = {};
  entry.role = role;
  entry.index = index;
  SetText(entry.name, name);
  entries.push_back(entry);
}

DescriptionParts MakeDescriptionParts() {
  DescriptionParts parts;
  SetText(parts.head.vm_id, "vm-1");
  parts.head.vcpu_count = 2;
  parts.head.state_capacity = 1 << 20;
  parts.head.state_format = 2;
  for (uint32_t i = 0; i < 2; ++i) {
    parts.slots.push_back({.slot = i,
                           .gpa = i * 0x1000000,
                           .size = kMemoryPages * kPage,
                           .memory_index = i,
                           .hva = 0x7f0000000000u + i * 0x1000000,
                           .device = 1,
                           .inode = 100 + i});
  }
  parts.AddEntry(REHOME_FD_VM);
  parts.AddEntry(REHOME_FD_MEMORY, 0);
  parts.AddEntry(REHOME_FD_MEMORY, 1);
  parts.AddEntry(REHOME_FD_CONFIG);
  parts.AddEntry(REHOME_FD_NAMED, 0, "console");
  parts.AddEntry(REHOME_FD_NAMED, 0, "tap0");
  parts.head.slot_count = 2;
  parts.head.fd_count = 6;
  return parts;
}

std::vector<BorrowedFd> DescribedVm::Borrow() const {
  std::vector<BorrowedFd> borrowed;
  for (const UniqueFd& fd : fds) borrowed.push_back(fd.borrow());
  return borrowed;
}

void DescribedVm::Update() {
  parts.head.slot_count = static_cast<uint32_t>(parts.slots.size());
  parts.head.fd_count = static_cast<uint32_t>(parts.entries.size());
  parts.head.layout_digest = rehome_layout_digest(parts.slots.data(), parts.slots.size());
}

UniqueFd MakeSealedMemfd(size_t bytes) {
  UniqueFd memfd(memfd_create("config", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(memfd.borrow().raw(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(memfd.borrow().raw(), F_ADD_SEALS,
                  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL),
            0);
  return memfd;
}

UniqueFd MakeBlock(const char* migration_id) {
  const rehome_block_params params = {.migration_id = migration_id,
                                      .state_capacity = kPage,
                                      .claim_timeout_ns = 1,
                                      .resolve_timeout_ns = 1,
                                      .fence_policy = REHOME_FENCE_BEFORE_RESUME,
                                      .strategy = REHOME_STRATEGY_MAP};
  UniqueFd block(rehome_block_create(&params));
  EXPECT_TRUE(block.valid());
  return block;
}

DescribedVm MakeHandedIn(const char* migration_id, bool is_source) {
  DescribedVm vm = MakeDescribedVm(is_source);
  vm.parts.AddEntry(REHOME_FD_BLOCK);
  vm.fds.push_back(MakeBlock(migration_id));
  vm.Update();
  return vm;
}

DescribedVm MakeDescribedVm(bool is_source) {
  DescribedVm vm{.parts = MakeDescriptionParts()};
  for (const char* name : {"vm", "memory-0", "memory-1"}) {
    vm.fds.emplace_back(memfd_create(name, MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(vm.fds.back().borrow().raw(), kMemoryPages * kPage), 0);
  }
  for (uint32_t i = 0; i < 2; ++i) {
    absl::StatusOr<FileIdentity> file = Identify(vm.fds[1 + i].borrow());
    EXPECT_TRUE(file.ok());
    vm.parts.slots[i].device = file->id.device;
    vm.parts.slots[i].inode = file->id.inode;
  }
  if (is_source) {
    vm.fds.push_back(MakeSealedMemfd(100));
    vm.fds.emplace_back(eventfd(0, EFD_CLOEXEC));
    vm.fds.emplace_back(eventfd(0, EFD_CLOEXEC));
  } else {
    vm.parts.entries.resize(3);
    vm.parts.head.state_capacity = 0;
  }
  vm.Update();
  return vm;
}

}  // namespace rehome::testing_support
