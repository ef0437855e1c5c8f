// SPDX-License-Identifier: Apache-2.0
//
// What a target makes of a description that the daemon passes on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>

#include "kvmglue/status_reason.h"
#include "vmm/reference/target_side.h"

namespace rehome {
namespace {

int Memfd() {
  const int fd = memfd_create("test", MFD_CLOEXEC);
  EXPECT_EQ(ftruncate(fd, 8 << 20), 0);
  return fd;
}

void Add(rehome_vm& vm, uint32_t role, uint32_t index, const char* name, int fd) {
  rehome_vm_fd& entry = vm.fds[vm.fd_count++];
  entry.entry.role = role;
  entry.entry.index = index;
  std::strcpy(entry.entry.name, name);
  entry.fd = fd;
}

std::unique_ptr<rehome_vm> Sample() {
  auto vm = std::make_unique<rehome_vm>();
  std::strcpy(vm->vm_id, "guest");
  vm->vcpu_count = 2;
  vm->state_format = 2;
  vm->slots[0] = {.size = 8 << 20};
  vm->slot_count = 1;
  VmConfig config{.vm_id = "guest", .ram_bytes = 8 << 20};
  config.cpuid.resize(2);
  Add(*vm, REHOME_FD_MEMORY, 0, "", Memfd());
  Add(*vm, REHOME_FD_CONFIG, 0, "", WriteVmConfig(config)->Release());
  return vm;
}

// A guest with one disk.
std::unique_ptr<rehome_vm> LinuxSample() {
  auto vm = Sample();
  vm->state_format = kLinuxStateFormat;
  VmConfig config{.vm_id = "guest", .ram_bytes = 8 << 20};
  config.cpuid.resize(2);
  config.guest = GuestKind::kLinux;
  config.devices = {{.kind = DeviceKind::kBlock}};
  close(vm->fds[--vm->fd_count].fd);
  Add(*vm, REHOME_FD_CONFIG, 0, "", WriteVmConfig(config)->Release());
  Add(*vm, REHOME_FD_NAMED, 0, "virtio.0", Memfd());
  return vm;
}

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(ProposalTest, AGoodOneIsSorted) {
  const auto vm = Sample();
  const auto proposal = ReadProposal(REHOME_STRATEGY_MAP, *vm);
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_FALSE(proposal->moves());
  EXPECT_EQ(proposal->state_format, 2u);
  EXPECT_EQ(proposal->vm.access, RamAccess::kMapped);
  EXPECT_EQ(proposal->vm.config.cpuid.size(), 2u);
  EXPECT_EQ(proposal->vm.memory.size(), 1u);
  EXPECT_EQ(proposal->vm.slots.size(), 1u);
}

TEST(ProposalTest, TheStrategySaysHowMemoryIsUsed) {
  const struct {
    uint32_t strategy;
    RamAccess access;
    bool moves;
  } kCases[] = {{REHOME_STRATEGY_LINK_MOVE, RamAccess::kBound, true},
                {REHOME_STRATEGY_MAP_MOVE, RamAccess::kMapped, true},
                {REHOME_STRATEGY_LINK, RamAccess::kBoundAndMapped, false},
                {REHOME_STRATEGY_MAP, RamAccess::kMapped, false}};
  for (const auto& test : kCases) {
    const auto vm = Sample();
    if (test.moves) Add(*vm, REHOME_FD_VM, 0, "", Memfd());
    const auto proposal = ReadProposal(test.strategy, *vm);
    ASSERT_TRUE(proposal.ok()) << proposal.status();
    EXPECT_EQ(proposal->vm.access, test.access);
    EXPECT_EQ(proposal->moves(), test.moves);
    EXPECT_EQ(proposal->source_vm.valid(), test.moves);
  }
}

TEST(ProposalTest, WhatDoesNotFitTogetherIsRefusedAndEveryDescriptorClosed) {
  const struct {
    const char* what;
    uint32_t strategy;
    const char* reason;
    std::function<void(rehome_vm&)> spoil;
  } kCases[] = {
      {"unknown strategy", 9, "PROPOSAL_INVALID", [](rehome_vm&) {}},
      {"MOVE without the VM", REHOME_STRATEGY_MAP_MOVE, "PROPOSAL_INVALID", [](rehome_vm&) {}},
      {"VM without MOVE", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_VM, 0, "", Memfd()); }},
      {"memory twice", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_MEMORY, 0, "", Memfd()); }},
      {"memory numbered wrongly", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { vm.fds[0].entry.index = 7; }},
      {"a role that is not ours", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_PEER_PIDFD, 0, "", Memfd()); }},
      {"unknown device", REHOME_STRATEGY_MAP, "DEVICE_UNKNOWN",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_NAMED, 0, "vga.aperture", Memfd()); }},
      {"a console that is none", REHOME_STRATEGY_MAP, "CONSOLE_BAD_FD",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_NAMED, 0, kConsoleListenFd, Memfd()); }},
      {"no configuration", REHOME_STRATEGY_MAP, "CONFIG_NOT_SEALED",
       [](rehome_vm& vm) { close(vm.fds[--vm.fd_count].fd); }},
      {"configuration of another type", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { vm.vm_type = 1; }},
      {"configuration of another size", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { vm.vcpu_count = 3; }},
      {"configuration of another VM", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { vm.vm_id[0] = 'x'; }},
  };
  for (const auto& test : kCases) {
    const auto vm = Sample();
    test.spoil(*vm);
    EXPECT_EQ(ReasonOf(ReadProposal(test.strategy, *vm).status()), test.reason) << test.what;
    for (uint32_t i = 0; i < vm->fd_count; ++i) {
      EXPECT_FALSE(IsOpen(vm->fds[i].fd)) << test.what << ", descriptor " << i;
    }
  }
}

TEST(ProposalTest, ALinuxGuestsDevicesAreSorted) {
  const auto vm = LinuxSample();
  const auto proposal = ReadProposal(REHOME_STRATEGY_MAP, *vm);
  ASSERT_TRUE(proposal.ok()) << proposal.status();
  EXPECT_EQ(proposal->vm.config.guest, GuestKind::kLinux);
  EXPECT_EQ(proposal->vm.devices.size(), 1u);
}

TEST(ProposalTest, DevicesAndConfigurationGoTogether) {
  const struct {
    const char* what;
    uint32_t strategy;
    const char* reason;
    std::function<void(rehome_vm&)> spoil;
  } kCases[] = {
      {"a device that the configuration lacks", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_NAMED, 0, "virtio.1", Memfd()); }},
      {"a device twice", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_NAMED, 0, "virtio.0", Memfd()); }},
      {"no descriptor for a device", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { close(vm.fds[--vm.fd_count].fd); }},
      {"more devices than there can be", REHOME_STRATEGY_MAP, "DEVICE_UNKNOWN",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_NAMED, 0, "virtio.7", Memfd()); }},
      {"a payload guest's state", REHOME_STRATEGY_MAP, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { vm.state_format = 2; }},
      {"memory that nobody can map", REHOME_STRATEGY_LINK_MOVE, "PROPOSAL_INVALID",
       [](rehome_vm& vm) { Add(vm, REHOME_FD_VM, 0, "", Memfd()); }},
  };
  for (const auto& test : kCases) {
    const auto vm = LinuxSample();
    test.spoil(*vm);
    EXPECT_EQ(ReasonOf(ReadProposal(test.strategy, *vm).status()), test.reason) << test.what;
  }
}

}  // namespace
}  // namespace rehome
