/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/description.h"

#include <string.h>

enum { kPageSize = 4096, kAddressSpaces = 2 };

static int count_role(const struct rehome_vm *vm, uint32_t role) {
  int count = 0;
  for (uint32_t i = 0; i < vm->fd_count; i++) count += vm->fds[i].entry.role == role;
  return count;
}

/* 1 if an earlier fd has the same role and, as the role says, the same index or name. */
static int repeats_earlier(const struct rehome_vm *vm, uint32_t i) {
  const struct rehome_fd_entry *entry = &vm->fds[i].entry;
  for (uint32_t j = 0; j < i; j++) {
    const struct rehome_fd_entry *other = &vm->fds[j].entry;
    if (other->role != entry->role) continue;
    if (entry->role == REHOME_FD_MEMORY && other->index != entry->index) continue;
    if (entry->role == REHOME_FD_NAMED && strcmp(other->name, entry->name) != 0) continue;
    return 1;
  }
  return 0;
}

static const char *fds_defect(const struct rehome_vm *vm, uint32_t roles) {
  if (vm->fd_count > REHOME_MAX_FDS) return "too many fds";
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    const struct rehome_fd_entry *entry = &vm->fds[i].entry;
    if (entry->role > REHOME_FD_PEER_PIDFD || (roles & REHOME_ROLE_BIT(entry->role)) == 0) {
      return "an fd role that does not belong here";
    }
    if (!rehome_is_terminated(entry->name, sizeof(entry->name))) return "unterminated fd name";
    if (entry->role == REHOME_FD_NAMED && !rehome_is_name(entry->name, sizeof(entry->name))) {
      return "a named fd without a printable name";
    }
    if (entry->role != REHOME_FD_MEMORY && entry->index != 0) return "an index without a meaning";
  }
  uint32_t memories = (uint32_t)count_role(vm, REHOME_FD_MEMORY);
  if (memories > REHOME_MAX_MEMORIES) return "too many memory fds";
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    const struct rehome_fd_entry *entry = &vm->fds[i].entry;
    if (repeats_earlier(vm, i)) return "an fd appears twice";
    if (entry->role == REHOME_FD_MEMORY && entry->index >= memories) return "memory index too big";
  }
  return NULL;
}

static int is_page_aligned(uint64_t value) { return value % kPageSize == 0; }

static const char *slots_defect(const struct rehome_vm *vm) {
  if (vm->slot_count > REHOME_MAX_SLOTS) return "too many memory slots";
  uint32_t memories = (uint32_t)count_role(vm, REHOME_FD_MEMORY);
  for (uint32_t i = 0; i < vm->slot_count; i++) {
    const struct rehome_memslot *slot = &vm->slots[i];
    if (slot->reserved != 0) return "reserved field of a slot is not 0";
    if (slot->address_space >= kAddressSpaces) return "unknown address space";
    if (slot->memory_index >= memories) return "a slot names a memory fd that is not there";
    if (slot->size == 0 || !is_page_aligned(slot->size) || !is_page_aligned(slot->gpa) ||
        !is_page_aligned(slot->offset) || !is_page_aligned(slot->hva)) {
      return "a slot is not page-aligned";
    }
    if (slot->gpa + slot->size < slot->gpa || slot->offset + slot->size < slot->offset ||
        slot->hva + slot->size < slot->hva) {
      return "a slot wraps around";
    }
  }
  return NULL;
}

const char *rehome_vm_defect(const struct rehome_vm *vm, uint32_t roles) {
  if (!rehome_is_vm_id(vm->vm_id)) return "bad vm_id";
  if (vm->vcpu_count == 0 || vm->vcpu_count > REHOME_MAX_VCPUS) return "bad number of vCPUs";
  if (vm->state_capacity > REHOME_MAX_STATE) return "state_capacity too big";
  if (vm->state_format_oldest > vm->state_format) return "empty range of state formats";
  const char *defect = fds_defect(vm, roles);
  return defect != NULL ? defect : slots_defect(vm);
}

const char *rehome_vm_lacks(const struct rehome_vm *vm) {
  if (count_role(vm, REHOME_FD_VM) == 0) return "no VM fd";
  return count_role(vm, REHOME_FD_MEMORY) == 0 ? "no memory fd" : NULL;
}

void rehome_description_append(struct rehome_packet *packet, const struct rehome_vm *vm) {
  struct rehome_description fixed = {
      .vm_type = vm->vm_type,
      .vcpu_count = vm->vcpu_count,
      .slot_count = vm->slot_count,
      .fd_count = vm->fd_count,
      .state_capacity = vm->state_capacity,
      .layout_digest = vm->layout_digest,
      .state_format = vm->state_format,
      .state_format_oldest = vm->state_format_oldest,
  };
  rehome_copy_text(fixed.vm_id, sizeof(fixed.vm_id), vm->vm_id);
  rehome_packet_append(packet, &fixed, sizeof(fixed));
  rehome_packet_append(packet, vm->slots, vm->slot_count * sizeof(vm->slots[0]));
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    rehome_packet_append(packet, &vm->fds[i].entry, sizeof(vm->fds[i].entry));
    rehome_packet_append_fd(packet, vm->fds[i].fd);
  }
}

const char *rehome_description_parse(const struct rehome_packet *packet, size_t offset,
                                     uint32_t roles, struct rehome_vm *vm) {
  struct rehome_description fixed;
  size_t size = packet->header.payload_size;
  if (size < offset || size - offset < sizeof(fixed)) return "description cut short";
  memcpy(&fixed, packet->payload + offset, sizeof(fixed));
  offset += sizeof(fixed);
  if (fixed.slot_count > REHOME_MAX_SLOTS) return "too many memory slots";
  if (fixed.fd_count > REHOME_MAX_FDS || fixed.fd_count != packet->header.fd_count) {
    return "wrong number of fds";
  }
  size_t slots_size = fixed.slot_count * sizeof(struct rehome_memslot);
  size_t entries_size = fixed.fd_count * sizeof(struct rehome_fd_entry);
  if (size - offset != slots_size + entries_size) return "wrong payload size";

  memset(vm, 0, sizeof(*vm));
  memcpy(vm->vm_id, fixed.vm_id, sizeof(vm->vm_id));
  vm->vm_type = fixed.vm_type;
  vm->vcpu_count = fixed.vcpu_count;
  vm->state_capacity = fixed.state_capacity;
  vm->layout_digest = fixed.layout_digest;
  vm->state_format = fixed.state_format;
  vm->state_format_oldest = fixed.state_format_oldest;
  vm->slot_count = fixed.slot_count;
  vm->fd_count = fixed.fd_count;
  memcpy(vm->slots, packet->payload + offset, slots_size);
  offset += slots_size;
  for (uint32_t i = 0; i < vm->fd_count; i++) {
    memcpy(&vm->fds[i].entry, packet->payload + offset, sizeof(vm->fds[i].entry));
    offset += sizeof(vm->fds[i].entry);
    vm->fds[i].fd = packet->fds[i];
  }
  return rehome_vm_defect(vm, roles);
}
