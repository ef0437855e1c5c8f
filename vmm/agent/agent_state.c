/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/agent_state.h"

enum { kRequests = 9 };

static int column(enum rehome_message type) {
  switch (type) {
    case REHOME_MSG_DESCRIBE:
      return 0;
    case REHOME_MSG_PREPARE:
      return 1;
    case REHOME_MSG_ARM_TARGET:
      return 2;
    case REHOME_MSG_ARM_SOURCE:
      return 3;
    case REHOME_MSG_START:
      return 4;
    case REHOME_MSG_CANCEL:
      return 5;
    case REHOME_MSG_RELEASE:
      return 6;
    case REHOME_MSG_PROBE:
      return 7;
    case REHOME_MSG_HAND_IN:
      return 8;
    case REHOME_MSG_HELLO:
    case REHOME_MSG_REGISTER:
    case REHOME_MSG_EVENT:
    case REHOME_MSG_TRACE: /* nobody waits for an answer */
      return -1;
  }
  return -1;
}

/* clang-format off */
enum {
  kYes  = REHOME_REFUSED_NONE,
  kNot  = REHOME_REFUSED_UNSUPPORTED,     /* not what this end of a migration does */
  kBusy = REHOME_REFUSED_BUSY,
  kId   = REHOME_REFUSED_WRONG_MIGRATION, /* no migration is under way */
  kBad  = REHOME_REFUSED_MALFORMED,       /* out of order */
};

static const uint8_t kAdmission[REHOME_STATE_COUNT][kRequests] = {
    /*                            DESCRIBE PREPARE ARM_T  ARM_S  START  CANCEL RELEASE PROBE HANDIN */
    [REHOME_STATE_IDLE]        = {kYes,    kNot,   kNot,  kId,   kId,   kYes,  kId,    kYes,  kId},
    [REHOME_STATE_HELD]        = {kYes,    kNot,   kNot,  kYes,  kBad,  kYes,  kBad,   kYes,  kId},
    [REHOME_STATE_ARMED]       = {kYes,    kNot,   kNot,  kBusy, kYes,  kYes,  kBad,   kYes,  kYes},
    [REHOME_STATE_PAUSED]      = {kBusy,   kNot,   kNot,  kBusy, kBusy, kYes,  kBusy,  kYes,  kYes},
    [REHOME_STATE_STRANDED]    = {kBusy,   kNot,   kNot,  kBusy, kBusy, kBusy, kYes,   kYes,  kYes},
    [REHOME_STATE_HANDED_OVER] = {kBusy,   kNot,   kNot,  kBusy, kBusy, kBusy, kYes,   kYes,  kYes},
    [REHOME_STATE_NEW]         = {kNot,    kYes,   kBad,  kNot,  kNot,  kYes,  kNot,   kYes,  kId},
    [REHOME_STATE_PREPARED]    = {kNot,    kBusy,  kYes,  kNot,  kNot,  kYes,  kNot,   kYes,  kId},
    [REHOME_STATE_TAKE_OVER]   = {kNot,    kBusy,  kBusy, kNot,  kNot,  kYes,  kNot,   kYes,  kYes},
    [REHOME_STATE_OFF]         = {kNot,    kBusy,  kBusy, kNot,  kNot,  kYes,  kNot,   kYes,  kId},
};
/* clang-format on */

uint32_t rehome_admit(enum rehome_agent_state state, enum rehome_message type) {
  int request = column(type);
  return request < 0 ? (uint32_t)REHOME_REFUSED_MALFORMED : kAdmission[state][request];
}

const char *rehome_state_name(enum rehome_agent_state state) {
  switch (state) {
    case REHOME_STATE_IDLE:
      return "IDLE";
    case REHOME_STATE_HELD:
      return "HELD";
    case REHOME_STATE_ARMED:
      return "ARMED";
    case REHOME_STATE_PAUSED:
      return "PAUSED";
    case REHOME_STATE_STRANDED:
      return "STRANDED";
    case REHOME_STATE_HANDED_OVER:
      return "HANDED_OVER";
    case REHOME_STATE_NEW:
      return "NEW";
    case REHOME_STATE_PREPARED:
      return "PREPARED";
    case REHOME_STATE_TAKE_OVER:
      return "TAKE_OVER";
    case REHOME_STATE_OFF:
      return "OFF";
  }
  return "?";
}
