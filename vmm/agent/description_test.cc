// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/description.h"

#include <string.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace rehome {
namespace {

std::unique_ptr<rehome_vm> GoodVm() {
  auto vm = std::make_unique<rehome_vm>();
  memset(vm.get(), 0, sizeof(*vm));
  strcpy(vm->vm_id, "vm-1");
  vm->vm_type = 1;
  vm->vcpu_count = 4;
  vm->state_capacity = 65536;
  vm->layout_digest = 0xfeedface;
  vm->state_format = 3;
  vm->slot_count = 2;
  vm->slots[0] = {.slot = 0, .gpa = 0, .size = 4096, .memory_index = 1, .hva = 0x7f0000000000};
  vm->slots[1] = {.slot = 1, .address_space = 1, .gpa = 1 << 20, .size = 8192, .offset = 4096};
  vm->fds[0] = {{REHOME_FD_VM, 0, ""}, 10};
  vm->fds[1] = {{REHOME_FD_MEMORY, 0, ""}, 11};
  vm->fds[2] = {{REHOME_FD_MEMORY, 1, ""}, 12};
  vm->fds[3] = {{REHOME_FD_CONFIG, 0, ""}, 13};
  vm->fds[4] = {{REHOME_FD_NAMED, 0, "serial0"}, 14};
  vm->fds[5] = {{REHOME_FD_NAMED, 0, "net0"}, 15};
  vm->fd_count = 6;
  return vm;
}

class Description : public testing::Test {
 protected:
  // What the other end sees.
  const char* Parse(size_t offset = 0) {
    return rehome_description_parse(packet_.get(), offset, REHOME_DESCRIBED_ROLES, parsed_.get());
  }
  void Append(const rehome_vm& vm) {
    rehome_packet_init(packet_.get(), REHOME_MSG_DESCRIBE, REHOME_FLAG_REPLY, 1);
    rehome_description_append(packet_.get(), &vm);
  }
  rehome_description* Fixed() { return reinterpret_cast<rehome_description*>(packet_->payload); }

  std::unique_ptr<rehome_packet> packet_ = std::make_unique<rehome_packet>();
  std::unique_ptr<rehome_vm> parsed_ = std::make_unique<rehome_vm>();
};

TEST_F(Description, ComesBackAsItWasSent) {
  auto vm = GoodVm();
  Append(*vm);
  ASSERT_EQ(Parse(), nullptr);
  EXPECT_EQ(memcmp(vm.get(), parsed_.get(), sizeof(*vm)), 0);
}

TEST_F(Description, FitsIntoAMessageAtItsLargest) {
  auto vm = GoodVm();
  vm->slot_count = REHOME_MAX_SLOTS;
  for (uint32_t i = 0; i < vm->slot_count; i++) vm->slots[i] = {.slot = i, .size = 4096};
  for (; vm->fd_count < REHOME_MAX_FDS; vm->fd_count++) {
    vm->fds[vm->fd_count] = {{REHOME_FD_NAMED, 0, ""}, 20};
    std::string name = "device" + std::to_string(vm->fd_count);
    strcpy(vm->fds[vm->fd_count].entry.name, name.c_str());
  }
  rehome_prepare terms = {};
  rehome_packet_init(packet_.get(), REHOME_MSG_PREPARE, 0, 1);
  rehome_packet_append(packet_.get(), &terms, sizeof(terms));
  rehome_description_append(packet_.get(), vm.get());
  EXPECT_EQ(Parse(sizeof(terms)), nullptr);
  EXPECT_EQ(parsed_->slot_count, static_cast<uint32_t>(REHOME_MAX_SLOTS));
  EXPECT_EQ(parsed_->fd_count, REHOME_MAX_FDS);
}

TEST_F(Description, RefusesCountsThatDoNotMatchThePayload) {
  const std::vector<std::function<void(rehome_description*)>> damages = {
      [](rehome_description* d) { d->slot_count++; },
      [](rehome_description* d) { d->slot_count--; },
      [](rehome_description* d) { d->slot_count = UINT32_MAX; },
      [](rehome_description* d) { d->slot_count = REHOME_MAX_SLOTS + 1; },
      [](rehome_description* d) { d->fd_count++; },
      [](rehome_description* d) { d->fd_count = 0; },
      [](rehome_description* d) { d->fd_count = UINT32_MAX; },
      [](rehome_description* d) { d->state_format_oldest = d->state_format + 1; },
  };
  for (size_t i = 0; i < damages.size(); i++) {
    Append(*GoodVm());
    damages[i](Fixed());
    EXPECT_NE(Parse(), nullptr) << i;
  }
  Append(*GoodVm());
  EXPECT_NE(Parse(packet_->header.payload_size), nullptr);
  EXPECT_NE(Parse(SIZE_MAX), nullptr);
}

TEST_F(Description, RefusesEveryDefect) {
  const std::vector<std::function<void(rehome_vm*)>> damages = {
      [](rehome_vm* vm) { vm->vm_id[0] = '\0'; },
      [](rehome_vm* vm) { strcpy(vm->vm_id, "Vm"); },
      [](rehome_vm* vm) { vm->vcpu_count = 0; },
      [](rehome_vm* vm) { vm->vcpu_count = REHOME_MAX_VCPUS + 1; },
      [](rehome_vm* vm) { vm->state_capacity = REHOME_MAX_STATE + 1; },
      [](rehome_vm* vm) { vm->slots[0].reserved = 1; },
      [](rehome_vm* vm) { vm->slots[0].address_space = 2; },
      [](rehome_vm* vm) { vm->slots[0].memory_index = 2; },
      [](rehome_vm* vm) { vm->slots[0].size = 0; },
      [](rehome_vm* vm) { vm->slots[0].size = 4095; },
      [](rehome_vm* vm) { vm->slots[0].gpa = 1; },
      [](rehome_vm* vm) { vm->slots[0].offset = 1; },
      [](rehome_vm* vm) { vm->slots[0].hva = 1; },
      [](rehome_vm* vm) { vm->slots[0].gpa = UINT64_MAX & ~4095ull; },
      [](rehome_vm* vm) { vm->slots[0].offset = UINT64_MAX & ~4095ull; },
      [](rehome_vm* vm) { vm->fds[0].entry.role = 0; },
      [](rehome_vm* vm) { vm->fds[0].entry.role = 99; },
      [](rehome_vm* vm) { vm->fds[0].entry.role = REHOME_FD_BLOCK; },
      [](rehome_vm* vm) { vm->fds[0].entry.role = REHOME_FD_PEER_PIDFD; },
      [](rehome_vm* vm) { vm->fds[3].entry.role = REHOME_FD_VM; },  // a second one
      [](rehome_vm* vm) { vm->fds[2].entry.index = 0; },            // twice the same memory
      [](rehome_vm* vm) { vm->fds[2].entry.index = 2; },            // a gap
      [](rehome_vm* vm) { vm->fds[4].entry.name[0] = '\0'; },
      [](rehome_vm* vm) { vm->fds[4].entry.name[0] = '\n'; },
      [](rehome_vm* vm) { vm->fds[4].entry.index = 1; },
      [](rehome_vm* vm) { strcpy(vm->fds[5].entry.name, "serial0"); },
      [](rehome_vm* vm) { memset(vm->fds[4].entry.name, 'x', REHOME_FD_NAME_SIZE); },
  };
  ASSERT_EQ(rehome_vm_defect(GoodVm().get(), REHOME_DESCRIBED_ROLES), nullptr);
  for (size_t i = 0; i < damages.size(); i++) {
    auto vm = GoodVm();
    damages[i](vm.get());
    EXPECT_NE(rehome_vm_defect(vm.get(), REHOME_DESCRIBED_ROLES), nullptr) << i;
    Append(*vm);
    EXPECT_NE(Parse(), nullptr) << i;
  }
}

TEST_F(Description, OfAVmHasItsVmFdAndMemory) {
  auto vm = GoodVm();
  EXPECT_EQ(rehome_vm_lacks(vm.get()), nullptr);
  vm->fds[0].entry.role = REHOME_FD_NAMED;
  EXPECT_NE(rehome_vm_lacks(vm.get()), nullptr);
  vm = GoodVm();
  vm->fd_count = 1;
  EXPECT_NE(rehome_vm_lacks(vm.get()), nullptr);
}

TEST_F(Description, BoundsTheNumberOfMemories) {
  auto vm = GoodVm();
  vm->fd_count = 0;
  for (uint32_t i = 0; i <= REHOME_MAX_MEMORIES; i++) {
    vm->fds[vm->fd_count++] = {{REHOME_FD_MEMORY, i, ""}, 10};
  }
  EXPECT_NE(rehome_vm_defect(vm.get(), REHOME_DESCRIBED_ROLES), nullptr);
  vm->fd_count--;
  EXPECT_EQ(rehome_vm_defect(vm.get(), REHOME_DESCRIBED_ROLES), nullptr);
}

}  // namespace
}  // namespace rehome
