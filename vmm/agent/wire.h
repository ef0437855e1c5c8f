/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of protocol.h over a socket: sending, receiving, and every check that needs no knowledge
 * of what the receiver is doing. Internal to the library and its tests.
 */
#ifndef REHOME_VMM_AGENT_WIRE_H_
#define REHOME_VMM_AGENT_WIRE_H_

#include <stddef.h>
#include <stdint.h>

#include "vmm/agent/protocol.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REHOME_MAX_PAYLOAD (REHOME_MAX_MESSAGE - sizeof(struct rehome_header))

/* One message. Large (16 KiB): keep it off small stacks. */
struct rehome_packet {
  struct rehome_header header;
  int fds[REHOME_MAX_FDS]; /* header.fd_count of them; -1 where somebody took one over */
  uint8_t
      payload[REHOME_MAX_PAYLOAD]; /* header.payload_size bytes of it; aligned like the header */
};

/* Which end receives: decides which types may arrive as requests and which as replies. */
enum rehome_end { REHOME_END_AGENT, REHOME_END_DAEMON };

/* Receives one message without blocking. After 0 the header is sane, the payload has the size and
 * the packet the number of fds that its type wants (at least the fixed part, where a list follows),
 * and strings of fixed-size payloads end in NUL. The fds are the caller's, close-on-exec.
 * -EAGAIN: nothing there. -EPIPE: the peer closed. -EPROTO: a violation; fds that came with it have
 * been closed; the caller closes the connection. Other negative errno: the socket failed. */
int rehome_wire_receive(int socket, enum rehome_end end, struct rehome_packet *packet);

/* Sends it without blocking; fds stay the caller's. -EAGAIN: the peer does not read. -EPIPE: it
 * closed. */
int rehome_wire_send(int socket, const struct rehome_packet *packet);

/* Starts an empty packet. */
void rehome_packet_init(struct rehome_packet *packet, enum rehome_message type, uint32_t flags,
                        uint64_t seq);
/* Appends to the payload. Callers append what fits by construction; more is cut off and makes the
 * receiver refuse the message. */
void rehome_packet_append(struct rehome_packet *packet, const void *data, size_t size);
void rehome_packet_append_fd(struct rehome_packet *packet, int fd);

/* Hands out fds[index]; the caller closes it. */
int rehome_packet_take_fd(struct rehome_packet *packet, uint32_t index);
/* Closes every fd that nobody took. */
void rehome_packet_close_fds(struct rehome_packet *packet);

/* 1 if the bytes hold a NUL. */
int rehome_is_terminated(const char *text, size_t size);
/* Copies and terminates, cutting if need be; the rest is zeroed, so that nothing of ours leaks. */
void rehome_copy_text(char *to, size_t size, const char *from);
/* 1 for a NUL-terminated string of printable ASCII that is not empty. */
int rehome_is_name(const char *text, size_t size);
/* 1 for [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? in REHOME_ID_SIZE bytes. */
int rehome_is_vm_id(const char *id);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_WIRE_H_ */
