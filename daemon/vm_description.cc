// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_description.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

absl::Status Violation(std::string_view message) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, reason::kAgentProtocolViolation, message);
}

// Puts each descriptor into its place, checked for its kind.
absl::Status PlaceFds(const WireDescription& wire, std::vector<UniqueFd>& fds, const FdKinds& kinds,
                      VmDescription& vm) {
  if (fds.size() != wire.fds.size()) return Violation("as many descriptors as entries must come");
  vm.memory.resize(
      static_cast<size_t>(std::count_if(wire.fds.begin(), wire.fds.end(), [](const WireFd& fd) {
        return fd.role == REHOME_FD_MEMORY;
      })));
  for (size_t i = 0; i < fds.size(); ++i) {
    const WireFd& entry = wire.fds[i];
    absl::Status status;
    switch (entry.role) {
      case REHOME_FD_VM:
        status = kinds.CheckVm(fds[i].borrow());
        vm.vm = std::move(fds[i]);
        break;
      case REHOME_FD_MEMORY:
        status = kinds.CheckMemory(fds[i].borrow());
        if (entry.index >= vm.memory.size()) return Violation("a memory index without its memory");
        vm.memory[entry.index] = std::move(fds[i]);
        break;
      case REHOME_FD_CONFIG:
        status = kinds.CheckConfig(fds[i].borrow());
        vm.config = std::move(fds[i]);
        break;
      case REHOME_FD_NAMED:
        vm.named.push_back({.name = entry.name, .fd = std::move(fds[i])});
        break;
      case REHOME_FD_BLOCK:
      case REHOME_FD_PEER_PIDFD:
        return Violation("a description with a descriptor of another message");
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<FileIdentity>> IdentifyMemory(const VmDescription& vm) {
  std::vector<FileIdentity> files;
  for (const UniqueFd& fd : vm.memory) {
    absl::StatusOr<FileIdentity> file = Identify(fd.borrow());
    if (!file.ok()) return file.status();
    for (const FileIdentity& other : files) {
      if (other.id == file->id) return Violation("two MEMORY descriptors of one inode");
    }
    files.push_back(*file);
  }
  return files;
}

// The slot as the daemon keeps it: its inode is the one of the descriptor, not of the claim.
absl::StatusOr<Memslot> CheckSlot(const rehome_memslot& wire, const FileIdentity& file) {
  const std::string slot = absl::StrCat("slot ", wire.slot, ": ");
  if (wire.device != file.id.device || wire.inode != file.id.inode) {
    return Violation(absl::StrCat(slot, "says inode ", wire.inode, " of device ", wire.device,
                                  ", but its descriptor is inode ", file.id.inode, " of device ",
                                  file.id.device));
  }
  if (wire.offset > file.size_bytes || wire.size > file.size_bytes - wire.offset) {
    return Violation(absl::StrCat(slot, wire.size, " bytes at offset ", wire.offset,
                                  " are not within the file, which has ", file.size_bytes));
  }
  return Memslot{.slot = wire.slot,
                 .address_space = wire.address_space,
                 .gpa = wire.gpa,
                 .size_bytes = wire.size,
                 .flags = wire.flags,
                 .inode = file.id,
                 .offset = wire.offset,
                 .hva = wire.hva};
}

absl::Status BuildLayout(const WireDescription& wire, VmDescription& vm) {
  absl::StatusOr<std::vector<FileIdentity>> files = IdentifyMemory(vm);
  if (!files.ok()) return files.status();
  for (const rehome_memslot& slot : wire.slots) {
    absl::StatusOr<Memslot> checked = CheckSlot(slot, (*files)[slot.memory_index]);
    if (!checked.ok()) return checked.status();
    vm.layout.slots.push_back(*checked);
  }
  if (absl::Status status = ValidateLayout(vm.layout); !status.ok()) return status;
  vm.layout.Canonicalize();
  vm.layout_digest = vm.layout.Digest();
  if (vm.layout_digest == wire.layout_digest) return absl::OkStatus();
  return Violation(absl::StrCat("layout_digest is ", absl::Hex(wire.layout_digest),
                                ", but the slots give ", absl::Hex(vm.layout_digest)));
}

// Which of the memories a slot is in.
absl::StatusOr<uint32_t> MemoryIndex(const std::vector<FileIdentity>& files, const Memslot& slot) {
  const auto found = std::find_if(files.begin(), files.end(),
                                  [&](const FileIdentity& file) { return file.id == slot.inode; });
  if (found != files.end()) return static_cast<uint32_t>(found - files.begin());
  return MakeStatus(absl::StatusCode::kInternal, reason::kBadFd,
                    absl::StrCat("no descriptor for the memory of slot ", slot.slot));
}

absl::Status AddSlots(const VmDescription& source, WireDescription& wire) {
  absl::StatusOr<std::vector<FileIdentity>> files = IdentifyMemory(source);
  if (!files.ok()) return files.status();
  for (const Memslot& slot : source.layout.slots) {
    absl::StatusOr<uint32_t> index = MemoryIndex(*files, slot);
    if (!index.ok()) return index.status();
    wire.slots.push_back({.slot = slot.slot,
                          .address_space = slot.address_space,
                          .gpa = slot.gpa,
                          .size = slot.size_bytes,
                          .flags = slot.flags,
                          .memory_index = *index,
                          .offset = slot.offset,
                          .hva = slot.hva,
                          .device = slot.inode.device,
                          .inode = slot.inode.inode});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VmDescription> AssembleDescription(const WireDescription& wire,
                                                  std::vector<UniqueFd> fds, const FdKinds& kinds) {
  VmDescription vm;
  vm.vm_id = wire.vm_id;
  vm.vm_type = wire.vm_type;
  vm.vcpu_count = wire.vcpu_count;
  vm.state_capacity = wire.state_capacity;
  vm.state_format = wire.state_format;
  vm.state_format_oldest = wire.state_format_oldest;
  if (absl::Status status = PlaceFds(wire, fds, kinds, vm); !status.ok()) return status;
  if (absl::Status status = BuildLayout(wire, vm); !status.ok()) return status;
  return vm;
}

absl::StatusOr<HandedIn> AssembleHandedIn(WireDescription wire, std::vector<UniqueFd> fds,
                                          const FdKinds& kinds, std::string_view migration_id) {
  const auto block = std::find_if(wire.fds.begin(), wire.fds.end(),
                                  [](const WireFd& fd) { return fd.role == REHOME_FD_BLOCK; });
  if (block == wire.fds.end() || fds.size() != wire.fds.size()) {
    return Violation("as many descriptors as entries must come, and a BLOCK among them");
  }
  const auto block_fd = fds.begin() + (block - wire.fds.begin());
  HandedIn handed_in{.block = std::move(*block_fd), .vm = std::nullopt};
  fds.erase(block_fd);
  wire.fds.erase(block);
  absl::Status status = kinds.CheckBlock(handed_in.block.borrow(), migration_id);
  if (!status.ok()) return status;
  absl::StatusOr<VmDescription> vm = AssembleDescription(wire, std::move(fds), kinds);
  if (!vm.ok()) return vm.status();
  handed_in.vm = *std::move(vm);
  return handed_in;
}

absl::StatusOr<OutgoingDescription> DescribeForTarget(const VmDescription& source, bool with_vm,
                                                      BorrowedFd block) {
  OutgoingDescription out;
  out.wire = {.vm_id = source.vm_id,
              .vm_type = source.vm_type,
              .vcpu_count = source.vcpu_count,
              .state_capacity = source.state_capacity,
              .layout_digest = source.layout_digest,
              .state_format = source.state_format};
  if (absl::Status status = AddSlots(source, out.wire); !status.ok()) return status;
  const auto add = [&out](BorrowedFd fd, WireFd entry) {
    out.fds.push_back(fd);
    out.wire.fds.push_back(std::move(entry));
  };
  if (with_vm) add(source.vm.borrow(), {.role = REHOME_FD_VM});
  for (size_t i = 0; i < source.memory.size(); ++i) {
    add(source.memory[i].borrow(), {.role = REHOME_FD_MEMORY, .index = static_cast<uint32_t>(i)});
  }
  if (source.config.valid()) add(source.config.borrow(), {.role = REHOME_FD_CONFIG});
  for (const NamedFd& named : source.named) {
    add(named.fd.borrow(), {.role = REHOME_FD_NAMED, .name = named.name});
  }
  add(block, {.role = REHOME_FD_BLOCK});
  return out;
}

}  // namespace rehome
