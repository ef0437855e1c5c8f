/* SPDX-License-Identifier: Apache-2.0
 *
 * No code: the wire, pinned. docs/agent-protocol.md prints the same numbers.
 */
#include "vmm/agent/protocol.h"

_Static_assert(sizeof(struct rehome_memslot) == 72, "wire");
_Static_assert(offsetof(struct rehome_memslot, slot) == 0, "wire");
_Static_assert(offsetof(struct rehome_memslot, address_space) == 4, "wire");
_Static_assert(offsetof(struct rehome_memslot, gpa) == 8, "wire");
_Static_assert(offsetof(struct rehome_memslot, size) == 16, "wire");
_Static_assert(offsetof(struct rehome_memslot, flags) == 24, "wire");
_Static_assert(offsetof(struct rehome_memslot, memory_index) == 28, "wire");
_Static_assert(offsetof(struct rehome_memslot, offset) == 32, "wire");
_Static_assert(offsetof(struct rehome_memslot, hva) == 40, "wire");
_Static_assert(offsetof(struct rehome_memslot, device) == 48, "wire");
_Static_assert(offsetof(struct rehome_memslot, inode) == 56, "wire");
_Static_assert(offsetof(struct rehome_memslot, reserved) == 64, "wire");

_Static_assert(sizeof(struct rehome_header) == 32, "wire");
_Static_assert(offsetof(struct rehome_header, magic) == 0, "wire");
_Static_assert(offsetof(struct rehome_header, version) == 4, "wire");
_Static_assert(offsetof(struct rehome_header, type) == 6, "wire");
_Static_assert(offsetof(struct rehome_header, flags) == 8, "wire");
_Static_assert(offsetof(struct rehome_header, status) == 12, "wire");
_Static_assert(offsetof(struct rehome_header, seq) == 16, "wire");
_Static_assert(offsetof(struct rehome_header, payload_size) == 24, "wire");
_Static_assert(offsetof(struct rehome_header, fd_count) == 28, "wire");

_Static_assert(sizeof(struct rehome_refusal_text) == 256, "wire");
_Static_assert(offsetof(struct rehome_refusal_text, text) == 0, "wire");

_Static_assert(sizeof(struct rehome_hello) == 160, "wire");
_Static_assert(offsetof(struct rehome_hello, version_min) == 0, "wire");
_Static_assert(offsetof(struct rehome_hello, version_max) == 4, "wire");
_Static_assert(offsetof(struct rehome_hello, features) == 8, "wire");
_Static_assert(offsetof(struct rehome_hello, role) == 12, "wire");
_Static_assert(offsetof(struct rehome_hello, state_format_write) == 16, "wire");
_Static_assert(offsetof(struct rehome_hello, state_format_read_min) == 20, "wire");
_Static_assert(offsetof(struct rehome_hello, state_format_read_max) == 24, "wire");
_Static_assert(offsetof(struct rehome_hello, reserved) == 28, "wire");
_Static_assert(offsetof(struct rehome_hello, vmm_name) == 32, "wire");
_Static_assert(offsetof(struct rehome_hello, vmm_version) == 96, "wire");

_Static_assert(sizeof(struct rehome_hello_reply) == 16, "wire");
_Static_assert(offsetof(struct rehome_hello_reply, version) == 0, "wire");
_Static_assert(offsetof(struct rehome_hello_reply, features) == 4, "wire");
_Static_assert(offsetof(struct rehome_hello_reply, reserved) == 8, "wire");

_Static_assert(sizeof(struct rehome_register) == 144, "wire");
_Static_assert(offsetof(struct rehome_register, vm_id) == 0, "wire");
_Static_assert(offsetof(struct rehome_register, vm_type) == 64, "wire");
_Static_assert(offsetof(struct rehome_register, vcpu_count) == 68, "wire");
_Static_assert(offsetof(struct rehome_register, memory_bytes) == 72, "wire");
_Static_assert(offsetof(struct rehome_register, migration_id) == 80, "wire");

_Static_assert(sizeof(struct rehome_event) == 328, "wire");
_Static_assert(offsetof(struct rehome_event, kind) == 0, "wire");
_Static_assert(offsetof(struct rehome_event, reserved) == 4, "wire");
_Static_assert(offsetof(struct rehome_event, migration_id) == 8, "wire");
_Static_assert(offsetof(struct rehome_event, text) == 72, "wire");

_Static_assert(sizeof(struct rehome_migration_ref) == 64, "wire");
_Static_assert(offsetof(struct rehome_migration_ref, migration_id) == 0, "wire");

_Static_assert(sizeof(struct rehome_describe) == 72, "wire");
_Static_assert(offsetof(struct rehome_describe, migration_id) == 0, "wire");
_Static_assert(offsetof(struct rehome_describe, hold) == 64, "wire");
_Static_assert(offsetof(struct rehome_describe, reserved) == 68, "wire");

_Static_assert(sizeof(struct rehome_fd_entry) == 40, "wire");
_Static_assert(offsetof(struct rehome_fd_entry, role) == 0, "wire");
_Static_assert(offsetof(struct rehome_fd_entry, index) == 4, "wire");
_Static_assert(offsetof(struct rehome_fd_entry, name) == 8, "wire");

_Static_assert(sizeof(struct rehome_description) == 104, "wire");
_Static_assert(offsetof(struct rehome_description, vm_id) == 0, "wire");
_Static_assert(offsetof(struct rehome_description, vm_type) == 64, "wire");
_Static_assert(offsetof(struct rehome_description, vcpu_count) == 68, "wire");
_Static_assert(offsetof(struct rehome_description, slot_count) == 72, "wire");
_Static_assert(offsetof(struct rehome_description, fd_count) == 76, "wire");
_Static_assert(offsetof(struct rehome_description, state_capacity) == 80, "wire");
_Static_assert(offsetof(struct rehome_description, layout_digest) == 88, "wire");
_Static_assert(offsetof(struct rehome_description, state_format) == 96, "wire");
_Static_assert(offsetof(struct rehome_description, state_format_oldest) == 100, "wire");

_Static_assert(sizeof(struct rehome_prepare) == 72, "wire");
_Static_assert(offsetof(struct rehome_prepare, migration_id) == 0, "wire");
_Static_assert(offsetof(struct rehome_prepare, strategy) == 64, "wire");
_Static_assert(offsetof(struct rehome_prepare, fence_policy) == 68, "wire");

_Static_assert(sizeof(struct rehome_arm) == 72, "wire");
_Static_assert(offsetof(struct rehome_arm, migration_id) == 0, "wire");
_Static_assert(offsetof(struct rehome_arm, layout_digest) == 64, "wire");

_Static_assert(sizeof(struct rehome_arm_source) == 80, "wire");
_Static_assert(offsetof(struct rehome_arm_source, arm) == 0, "wire");
_Static_assert(offsetof(struct rehome_arm_source, state_format) == 72, "wire");
_Static_assert(offsetof(struct rehome_arm_source, reserved) == 76, "wire");

_Static_assert(sizeof(struct rehome_probe) == 16, "wire");
_Static_assert(offsetof(struct rehome_probe, vm_alive) == 0, "wire");
_Static_assert(offsetof(struct rehome_probe, guest_running) == 4, "wire");
_Static_assert(offsetof(struct rehome_probe, reserved) == 8, "wire");
