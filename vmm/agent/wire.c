/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Payloads are read in place, as structures with 64-bit members. */
_Static_assert(offsetof(struct rehome_packet, payload) % sizeof(uint64_t) == 0, "alignment");

/* What a type looks like. "List" payloads end in slots and fd entries that the description counts;
 * their decoder checks the exact size. */
struct shape {
  enum rehome_message type;
  enum rehome_end receiver; /* of the request */
  uint32_t request_size, reply_size;
  uint32_t request_fds, reply_fds;
  unsigned request_list : 1, reply_list : 1, no_reply : 1;
  uint32_t request_size_with_formats; /* 0: FORMATS changes nothing */
};

static const struct shape kShapes[] = {
    {REHOME_MSG_HELLO, REHOME_END_DAEMON, sizeof(struct rehome_hello),
     sizeof(struct rehome_hello_reply), 0, 0, 0, 0, 0, 0},
    {REHOME_MSG_REGISTER, REHOME_END_DAEMON, sizeof(struct rehome_register), 0, 0, 0, 0, 0, 0, 0},
    {REHOME_MSG_EVENT, REHOME_END_DAEMON, sizeof(struct rehome_event), 0, 0, 0, 0, 0, 1, 0},
    {REHOME_MSG_DESCRIBE, REHOME_END_AGENT, sizeof(struct rehome_describe),
     sizeof(struct rehome_description), 0, 0, 0, 1, 0, 0},
    {REHOME_MSG_PREPARE, REHOME_END_AGENT,
     sizeof(struct rehome_prepare) + sizeof(struct rehome_description),
     sizeof(struct rehome_description), 0, 0, 1, 1, 0, 0},
    {REHOME_MSG_ARM_TARGET, REHOME_END_AGENT, sizeof(struct rehome_arm), 0, 1, 0, 0, 0, 0, 0},
    {REHOME_MSG_ARM_SOURCE, REHOME_END_AGENT, sizeof(struct rehome_arm), 0, 2, 0, 0, 0, 0,
     sizeof(struct rehome_arm_source)},
    {REHOME_MSG_START, REHOME_END_AGENT, sizeof(struct rehome_migration_ref), 0, 0, 0, 0, 0, 0, 0},
    {REHOME_MSG_CANCEL, REHOME_END_AGENT, sizeof(struct rehome_migration_ref), 0, 0, 0, 0, 0, 0, 0},
    {REHOME_MSG_RELEASE, REHOME_END_AGENT, sizeof(struct rehome_migration_ref), 0, 0, 0, 0, 0, 0,
     0},
    {REHOME_MSG_PROBE, REHOME_END_AGENT, sizeof(struct rehome_migration_ref),
     sizeof(struct rehome_probe), 0, 0, 0, 0, 0, 0},
    {REHOME_MSG_HAND_IN, REHOME_END_AGENT, sizeof(struct rehome_migration_ref),
     sizeof(struct rehome_description), 0, 0, 0, 1, 0, 0},
    {REHOME_MSG_TRACE, REHOME_END_AGENT, sizeof(struct rehome_migration_ref), 0, 1, 0, 0, 0, 1, 0},
};

int rehome_is_terminated(const char *text, size_t size) { return memchr(text, 0, size) != NULL; }

void rehome_copy_text(char *to, size_t size, const char *from) {
  size_t length = strnlen(from, size - 1);
  memset(to, 0, size);
  memcpy(to, from, length);
}

int rehome_is_name(const char *text, size_t size) {
  size_t length = strnlen(text, size);
  if (length == 0 || length == size) return 0;
  for (size_t i = 0; i < length; i++) {
    if (text[i] < ' ' || text[i] > '~') return 0;
  }
  return 1;
}

static int is_id_char(char c, int inner) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (inner && c == '-');
}

int rehome_is_vm_id(const char *id) {
  size_t length = strnlen(id, REHOME_ID_SIZE);
  if (length == 0 || length == REHOME_ID_SIZE) return 0;
  for (size_t i = 0; i < length; i++) {
    if (!is_id_char(id[i], i != 0 && i != length - 1)) return 0;
  }
  return 1;
}

/* ---- checks ---- */

static const struct shape *find_shape(uint16_t type) {
  for (size_t i = 0; i < sizeof(kShapes) / sizeof(kShapes[0]); i++) {
    if (kShapes[i].type == type) return &kShapes[i];
  }
  return NULL;
}

static int is_nonempty_id(const char *id) {
  return id[0] != '\0' && rehome_is_terminated(id, REHOME_ID_SIZE);
}

/* Strings and reserved fields of the payloads that a request can have. */
static int request_content_is_sane(const struct rehome_packet *packet) {
  const void *payload = packet->payload;
  const struct rehome_hello *hello = payload;
  const struct rehome_register *vm = payload;
  const struct rehome_event *event = payload;
  const struct rehome_describe *describe = payload;
  const struct rehome_arm_source *arm = payload;
  switch ((enum rehome_message)packet->header.type) {
    case REHOME_MSG_HELLO:
      return hello->reserved == 0 && hello->version_min <= hello->version_max &&
             (hello->role == REHOME_ROLE_OWNER || hello->role == REHOME_ROLE_TARGET) &&
             rehome_is_name(hello->vmm_name, REHOME_ID_SIZE) &&
             rehome_is_name(hello->vmm_version, REHOME_ID_SIZE);
    case REHOME_MSG_REGISTER:
      return rehome_is_vm_id(vm->vm_id) && rehome_is_terminated(vm->migration_id, REHOME_ID_SIZE);
    case REHOME_MSG_EVENT:
      return event->reserved == 0 && event->kind >= REHOME_EVENT_RESUMED &&
             event->kind <= REHOME_EVENT_VM_DEAD &&
             rehome_is_terminated(event->migration_id, REHOME_ID_SIZE) &&
             rehome_is_terminated(event->text, REHOME_TEXT_SIZE);
    case REHOME_MSG_DESCRIBE:
      return describe->reserved == 0 && describe->hold <= 1 &&
             is_nonempty_id(describe->migration_id);
    case REHOME_MSG_ARM_SOURCE:
      return is_nonempty_id(payload) &&
             (packet->header.payload_size < sizeof(*arm) || arm->reserved == 0);
    case REHOME_MSG_PREPARE:
    case REHOME_MSG_ARM_TARGET:
    case REHOME_MSG_START:
    case REHOME_MSG_CANCEL:
    case REHOME_MSG_RELEASE:
    case REHOME_MSG_PROBE:
    case REHOME_MSG_HAND_IN:
    case REHOME_MSG_TRACE:
      return is_nonempty_id(payload); /* each begins with the migration id */
  }
  return 0;
}

static int reply_content_is_sane(const struct rehome_packet *packet) {
  const void *payload = packet->payload;
  if (packet->header.status != 0) return rehome_is_terminated(payload, REHOME_TEXT_SIZE);
  if (packet->header.type == REHOME_MSG_HELLO) {
    return ((const struct rehome_hello_reply *)payload)->reserved == 0;
  }
  if (packet->header.type == REHOME_MSG_PROBE) {
    const struct rehome_probe *probe = payload;
    return probe->reserved == 0 && probe->vm_alive <= 1 && probe->guest_running <= 1;
  }
  return 1;
}

static int has_size(const struct rehome_header *header, uint32_t size, uint32_t fds, int list) {
  if (list) return header->payload_size >= size;
  return header->payload_size == size && header->fd_count == fds;
}

/* What was agreed on, the caller knows. */
static int request_has_size(const struct rehome_header *header, const struct shape *shape) {
  if (has_size(header, shape->request_size, shape->request_fds, shape->request_list)) return 1;
  return shape->request_size_with_formats != 0 &&
         has_size(header, shape->request_size_with_formats, shape->request_fds, 0);
}

static int packet_is_sane(const struct rehome_packet *packet, enum rehome_end end, size_t received,
                          uint32_t received_fds) {
  const struct rehome_header *header = &packet->header;
  if (received < sizeof(*header) || header->magic != REHOME_PROTOCOL_MAGIC ||
      header->version != REHOME_PROTOCOL_VERSION || (header->flags & ~REHOME_FLAG_REPLY) != 0 ||
      header->payload_size != received - sizeof(*header) || header->fd_count != received_fds) {
    return 0;
  }
  const struct shape *shape = find_shape(header->type);
  if (shape == NULL) return 0;
  if ((header->flags & REHOME_FLAG_REPLY) == 0) {
    return shape->receiver == end && header->status == 0 && request_has_size(header, shape) &&
           request_content_is_sane(packet);
  }
  if (shape->receiver == end || shape->no_reply) return 0;
  int sized = header->status != 0
                  ? has_size(header, sizeof(struct rehome_refusal_text), 0, 0)
                  : has_size(header, shape->reply_size, shape->reply_fds, shape->reply_list);
  return sized && reply_content_is_sane(packet);
}

/* ---- socket ---- */

/* Room for as many fds as the protocol allows; one more sets MSG_CTRUNC. */
union control {
  struct cmsghdr align;
  char bytes[CMSG_SPACE(REHOME_MAX_FDS * sizeof(int))];
};

/* Collects the fds of every SCM_RIGHTS part. The buffer bounds their number. */
static uint32_t collect_fds(struct msghdr *msg, int fds[REHOME_MAX_FDS]) {
  uint32_t count = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(msg); part != NULL; part = CMSG_NXTHDR(msg, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t in_part = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < in_part; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
      if (count < REHOME_MAX_FDS) {
        fds[count++] = fd;
      } else {
        close(fd);
      }
    }
  }
  return count;
}

int rehome_wire_receive(int socket, enum rehome_end end, struct rehome_packet *packet) {
  union control control;
  struct iovec parts[] = {{&packet->header, sizeof(packet->header)},
                          {packet->payload, sizeof(packet->payload)}};
  struct msghdr msg = {.msg_iov = parts,
                       .msg_iovlen = 2,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
  packet->header.fd_count = 0;
  ssize_t received;
  do {
    received = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == EWOULDBLOCK) return -EAGAIN;
    return errno == ECONNRESET ? -EPIPE : -errno;
  }
  uint32_t fd_count = collect_fds(&msg, packet->fds);
  if (received == 0 && fd_count == 0) return -EPIPE;
  if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
      !packet_is_sane(packet, end, (size_t)received, fd_count)) {
    packet->header.fd_count = fd_count;
    rehome_packet_close_fds(packet);
    return -EPROTO;
  }
  return 0;
}

int rehome_wire_send(int socket, const struct rehome_packet *packet) {
  union control control;
  struct iovec parts[] = {{(void *)(uintptr_t)&packet->header, sizeof(packet->header)},
                          {(void *)(uintptr_t)packet->payload, packet->header.payload_size}};
  struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};
  size_t fd_bytes = packet->header.fd_count * sizeof(int);
  if (fd_bytes != 0) {
    memset(&control, 0, sizeof(control));
    msg.msg_control = control.bytes;
    msg.msg_controllen = CMSG_SPACE(fd_bytes);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&msg);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fd_bytes);
    memcpy(CMSG_DATA(rights), packet->fds, fd_bytes);
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return 0;
  if (errno == EWOULDBLOCK) return -EAGAIN;
  return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
}

/* ---- building and taking apart ---- */

void rehome_packet_init(struct rehome_packet *packet, enum rehome_message type, uint32_t flags,
                        uint64_t seq) {
  packet->header = (struct rehome_header){.magic = REHOME_PROTOCOL_MAGIC,
                                          .version = REHOME_PROTOCOL_VERSION,
                                          .type = (uint16_t)type,
                                          .flags = flags,
                                          .seq = seq};
}

void rehome_packet_append(struct rehome_packet *packet, const void *data, size_t size) {
  size_t used = packet->header.payload_size;
  size_t room = sizeof(packet->payload) - used;
  size_t count = size < room ? size : room;
  memcpy(packet->payload + used, data, count);
  packet->header.payload_size = (uint32_t)(used + count);
}

void rehome_packet_append_fd(struct rehome_packet *packet, int fd) {
  if (packet->header.fd_count < REHOME_MAX_FDS) packet->fds[packet->header.fd_count++] = fd;
}

int rehome_packet_take_fd(struct rehome_packet *packet, uint32_t index) {
  int fd = packet->fds[index];
  packet->fds[index] = -1;
  return fd;
}

void rehome_packet_close_fds(struct rehome_packet *packet) {
  for (uint32_t i = 0; i < packet->header.fd_count; i++) {
    if (packet->fds[i] >= 0) close(packet->fds[i]);
  }
  packet->header.fd_count = 0;
}
