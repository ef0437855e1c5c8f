/* SPDX-License-Identifier: Apache-2.0
 *
 * The states of an agent and which requests each admits: one pure table. Internal to the library
 * and its tests.
 */
#ifndef REHOME_VMM_AGENT_AGENT_STATE_H_
#define REHOME_VMM_AGENT_AGENT_STATE_H_

#include <stdint.h>

#include "vmm/agent/protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

enum rehome_agent_state {
  /* an owner, which becomes the source of a migration */
  REHOME_STATE_IDLE,        /* the guest runs here; nothing under way */
  REHOME_STATE_HELD,        /* DESCRIBE with hold: slots and devices stay as they are */
  REHOME_STATE_ARMED,       /* block mapped; START may come */
  REHOME_STATE_PAUSED,      /* the guest is paused; the verdict decides */
  REHOME_STATE_STRANDED,    /* paused, and only somebody else can end it; reported */
  REHOME_STATE_HANDED_OVER, /* RUNNING seen: never again here */
  /* a target */
  REHOME_STATE_NEW,       /* waits for PREPARE */
  REHOME_STATE_PREPARED,  /* VM built, block mapped, vCPU threads wait */
  REHOME_STATE_TAKE_OVER, /* armed: the source may hand over at any moment */
  REHOME_STATE_OFF,       /* cancelled: the VMM has been told to exit */
};
#define REHOME_STATE_COUNT 10

/* REHOME_REFUSED_NONE if `type` may be handled in `state` (its migration id is checked by the
 * handler), else the reason for the refusal. Types that an agent does not receive are MALFORMED. */
uint32_t rehome_admit(enum rehome_agent_state state, enum rehome_message type);

const char *rehome_state_name(enum rehome_agent_state state);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_AGENT_STATE_H_ */
