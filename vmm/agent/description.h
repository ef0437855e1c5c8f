/* SPDX-License-Identifier: Apache-2.0
 *
 * struct rehome_vm to and from the wire (rehome_description, slots, fd entries, fds), with the
 * checks of docs/agent-protocol.md. Internal to the library and its tests.
 */
#ifndef REHOME_VMM_AGENT_DESCRIPTION_H_
#define REHOME_VMM_AGENT_DESCRIPTION_H_

#include "vmm/agent/rehome_agent.h"
#include "vmm/agent/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_ROLE_BIT(role) (1u << (role))
/* What the fds of a VM that describes itself can be. */
#define REHOME_DESCRIBED_ROLES                                         \
  (REHOME_ROLE_BIT(REHOME_FD_VM) | REHOME_ROLE_BIT(REHOME_FD_MEMORY) | \
   REHOME_ROLE_BIT(REHOME_FD_CONFIG) | REHOME_ROLE_BIT(REHOME_FD_NAMED))

/* NULL if `vm` may be sent or believed, else what is wrong with it, in words. `roles`: which roles
 * its fds may have. */
const char *rehome_vm_defect(const struct rehome_vm *vm, uint32_t roles);

/* NULL, or what a VM that describes itself has left out: it has a VM fd and memory. */
const char *rehome_vm_lacks(const struct rehome_vm *vm);

/* Appends `vm` and its fds. REQUIRES: rehome_vm_defect() found none. */
void rehome_description_append(struct rehome_packet *packet, const struct rehome_vm *vm);

/* Reads the description that begins at `offset` of the payload and ends with it. vm->fds are those
 * of the packet, which still owns them. NULL, or what is wrong. */
const char *rehome_description_parse(const struct rehome_packet *packet, size_t offset,
                                     uint32_t roles, struct rehome_vm *vm);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_DESCRIPTION_H_ */
