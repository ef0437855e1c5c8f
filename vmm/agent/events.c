/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "vmm/agent/agent_internal.h"

void rehome_events_push(struct rehome_agent *agent, uint32_t kind, const char *text) {
  struct rehome_event event = {.kind = kind};
  rehome_copy_text(event.text, sizeof(event.text), text == NULL ? "" : text);
  pthread_mutex_lock(&agent->lock);
  if (kind != REHOME_EVENT_GUEST_STOPPED) {
    memcpy(event.migration_id, agent->migration_id, sizeof(event.migration_id));
  }
  if (agent->event_count == REHOME_MAX_QUEUED_EVENTS) {
    agent->first_event = (agent->first_event + 1) % REHOME_MAX_QUEUED_EVENTS;
    agent->event_count--;
  }
  unsigned last = (agent->first_event + agent->event_count) % REHOME_MAX_QUEUED_EVENTS;
  agent->events[last] = event;
  agent->event_count++;
  pthread_mutex_unlock(&agent->lock);
}

bool rehome_events_peek(struct rehome_agent *agent, struct rehome_event *event) {
  pthread_mutex_lock(&agent->lock);
  bool any = agent->event_count != 0;
  if (any) *event = agent->events[agent->first_event];
  pthread_mutex_unlock(&agent->lock);
  return any;
}

void rehome_events_pop(struct rehome_agent *agent) {
  pthread_mutex_lock(&agent->lock);
  if (agent->event_count != 0) {
    agent->first_event = (agent->first_event + 1) % REHOME_MAX_QUEUED_EVENTS;
    agent->event_count--;
  }
  pthread_mutex_unlock(&agent->lock);
}
