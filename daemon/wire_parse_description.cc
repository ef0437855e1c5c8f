// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/wire_codec.h"
#include "daemon/wire_fields.h"

namespace rehome {
namespace {

using wire::CheckVm;
using wire::ParseName;
using wire::Take;
using wire::Violation;

size_t MaxFds(DescriptionKind kind) {
  return kind == DescriptionKind::kHandedIn ? REHOME_MAX_DESCRIBED_FDS + 1
                                            : REHOME_MAX_DESCRIBED_FDS;
}

absl::Status CheckDescription(const rehome_description& wire, size_t rest, size_t fd_count,
                              DescriptionKind kind) {
  const size_t max_fds = MaxFds(kind);
  if (wire.slot_count == 0 || wire.slot_count > REHOME_MAX_SLOTS) {
    return Violation(absl::StrCat("description: slot_count is ", wire.slot_count, ", must be 1 to ",
                                  REHOME_MAX_SLOTS));
  }
  if (wire.fd_count > max_fds || wire.fd_count != fd_count) {
    return Violation(absl::StrCat("description: fd_count is ", wire.fd_count, ", but ", fd_count,
                                  " descriptors came; at most ", max_fds));
  }
  const size_t expected =
      wire.slot_count * sizeof(rehome_memslot) + wire.fd_count * sizeof(rehome_fd_entry);
  if (rest != expected) {
    return Violation(absl::StrCat("description: ", rest, " bytes of arrays, must be ", expected));
  }
  if (wire.state_format_oldest > wire.state_format) {
    return Violation(absl::StrCat("description: empty range of state formats, ",
                                  wire.state_format_oldest, " to ", wire.state_format));
  }
  // Nobody else has a choice: a target writes none, and a handed-in state is in the one it is in.
  if (wire.state_format_oldest != 0 && kind != DescriptionKind::kSource) {
    return Violation("description: state_format_oldest is not 0");
  }
  if (wire.state_capacity > REHOME_MAX_STATE) {
    return Violation(absl::StrCat("description: state_capacity is ", wire.state_capacity,
                                  ", at most ", REHOME_MAX_STATE));
  }
  return absl::OkStatus();
}

bool IsAllowed(uint32_t role, DescriptionKind kind) {
  switch (role) {
    case REHOME_FD_VM:
    case REHOME_FD_MEMORY:
      return true;
    case REHOME_FD_CONFIG:
    case REHOME_FD_NAMED:
      return kind != DescriptionKind::kPrepared;
    case REHOME_FD_BLOCK:
      return kind == DescriptionKind::kHandedIn;
  }
  return false;
}

absl::StatusOr<WireFd> ParseFdEntry(const rehome_fd_entry& entry, DescriptionKind kind) {
  WireFd fd{.role = static_cast<rehome_fd_role>(entry.role), .index = entry.index};
  if (!IsAllowed(entry.role, kind))
    return Violation(absl::StrCat("fd entry: role ", entry.role, " is not allowed"));
  if (entry.role != REHOME_FD_MEMORY && entry.index != 0) {
    return Violation(absl::StrCat("fd entry: role ", entry.role, " with index ", entry.index));
  }
  const bool named = entry.role == REHOME_FD_NAMED;
  if (absl::Status status = ParseName(entry.name, "fd entry: name", !named, &fd.name);
      !status.ok()) {
    return status;
  }
  if (!named) fd.name.clear();
  return fd;
}

// How many of each role, and that memories and slots refer to each other.
absl::Status CheckRoles(const WireDescription& description, DescriptionKind kind) {
  size_t vms = 0, configs = 0, blocks = 0, memories = 0;
  std::array<bool, REHOME_MAX_MEMORIES> present = {};
  std::array<bool, REHOME_MAX_MEMORIES> used = {};
  std::vector<std::string_view> names;
  for (const WireFd& fd : description.fds) {
    if (fd.role == REHOME_FD_VM) ++vms;
    if (fd.role == REHOME_FD_CONFIG) ++configs;
    if (fd.role == REHOME_FD_BLOCK) ++blocks;
    if (fd.role == REHOME_FD_NAMED) names.push_back(fd.name);
    if (fd.role != REHOME_FD_MEMORY) continue;
    if (fd.index >= REHOME_MAX_MEMORIES || present[fd.index]) {
      return Violation(
          absl::StrCat("fd entry: memory index ", fd.index, " is out of range or there twice"));
    }
    present[fd.index] = true;
    ++memories;
  }
  if (vms != 1) return Violation(absl::StrCat("description: ", vms, " VM descriptors, must be 1"));
  if (configs > 1) return Violation("description: more than one CONFIG descriptor");
  if (blocks != (kind == DescriptionKind::kHandedIn ? 1 : 0)) {
    return Violation(absl::StrCat("description: ", blocks, " BLOCK descriptors, must be 1"));
  }
  if (memories == 0) return Violation("description: no MEMORY descriptor");
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) != names.end()) {
    return Violation("description: two NAMED descriptors of one name");
  }
  for (const rehome_memslot& slot : description.slots) {
    if (slot.reserved != 0) return Violation("memslot: reserved is not 0");
    if (slot.memory_index >= memories || !present[slot.memory_index]) {
      return Violation(absl::StrCat("memslot: there is no memory ", slot.memory_index));
    }
    used[slot.memory_index] = true;
  }
  // With every slot's index below `memories` and present, and every present one used, the indices
  // are 0..memories-1 without a gap.
  if (present != used) return Violation("description: a MEMORY descriptor that no slot uses");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WireDescription> ParseDescription(std::span<const std::byte> payload,
                                                 size_t fd_count, DescriptionKind kind) {
  if (payload.size() < sizeof(rehome_description)) {
    return Violation(absl::StrCat("description: ", payload.size(), " bytes, must be at least ",
                                  sizeof(rehome_description)));
  }
  const rehome_description wire = Take<rehome_description>(payload);
  absl::Status status = CheckDescription(wire, payload.size(), fd_count, kind);
  if (!status.ok()) return status;
  WireDescription description{.vcpu_count = wire.vcpu_count,
                              .state_capacity = wire.state_capacity,
                              .layout_digest = wire.layout_digest,
                              .state_format = wire.state_format,
                              .state_format_oldest = wire.state_format_oldest};
  status = ParseName(wire.vm_id, "description: vm_id", false, &description.vm_id);
  if (!status.ok()) return status;
  status = CheckVm(wire.vm_type, wire.vcpu_count, &description.vm_type);
  if (!status.ok()) return status;
  for (uint32_t i = 0; i < wire.slot_count; ++i) {
    description.slots.push_back(Take<rehome_memslot>(payload));
  }
  for (uint32_t i = 0; i < wire.fd_count; ++i) {
    absl::StatusOr<WireFd> fd = ParseFdEntry(Take<rehome_fd_entry>(payload), kind);
    if (!fd.ok()) return fd.status();
    description.fds.push_back(*std::move(fd));
  }
  status = CheckRoles(description, kind);
  if (!status.ok()) return status;
  return description;
}

}  // namespace rehome
