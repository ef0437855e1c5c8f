// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/binding_match.h"

#include "kvmglue/memory_layout.h"

namespace rehome::sim {
namespace {

bool FilesMatch(const LocalVm& destination, const VmObject& source, const Slot& ours,
                const Slot& theirs) {
  const GuestMemfdFile& our_file = destination.object().files[ours.file_index];
  const GuestMemfdFile& their_file = source.files[theirs.file_index];
  if (our_file.device != their_file.device || our_file.inode != their_file.inode) return false;
  if (ours.guest_memfd_offset != theirs.guest_memfd_offset) return false;
  if (!source.IsAwake(their_file)) return false;

  const auto memory = destination.FindMemory({our_file.device, our_file.inode});
  return memory != nullptr && memory->IsFileOpen(destination.object().id, ours.file_index) &&
         memory->IsFileOpen(source.id, theirs.file_index);
}

bool SlotsMatch(const LocalVm& destination, const VmObject& source, const Slot& ours,
                const Slot& theirs) {
  if (ours.gpa != theirs.gpa || ours.size != theirs.size || ours.flags != theirs.flags)
    return false;
  return (ours.flags & kMemslotGuestMemfd) == 0 || FilesMatch(destination, source, ours, theirs);
}

}  // namespace

bool BindingsMatch(const LocalVm& destination, const VmObject& source, uint32_t address_spaces) {
  const VmDevices& ours = destination.object().devices;
  if (ours.tss_address != source.devices.tss_address ||
      ours.identity_map_address != source.devices.identity_map_address) {
    return false;
  }
  for (uint32_t space = 0; space < address_spaces; ++space) {
    const std::vector<Slot> mine = SortedSlots(destination.object().slots.Get(), space);
    const std::vector<Slot> theirs = SortedSlots(source.slots.Get(), space);
    if (mine.size() != theirs.size()) return false;
    for (size_t i = 0; i < mine.size(); ++i) {
      if (!SlotsMatch(destination, source, mine[i], theirs[i])) return false;
    }
  }
  return true;
}

}  // namespace rehome::sim
