/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to rehomed: made, greeted, kept, made again. Nothing here knows about migrations.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/agent/agent_internal.h"
#include "vmm/agent/description.h"

static uint64_t after_ms(uint64_t ms) { return rehome_monotonic_ns() + ms * REHOME_NS_PER_MS; }

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

void rehome_connection_init(struct rehome_agent *agent, int inherited_fd) {
  if (inherited_fd >= 0) (void)fcntl(inherited_fd, F_SETFD, FD_CLOEXEC);
  agent->connection = (struct rehome_connection){
      .state = REHOME_CONNECTION_DOWN,
      .socket = inherited_fd,
      .connect_at_ns = 0,
      .seq = 1,
      .reply_by_ns = REHOME_NEVER,
      .register_at_ns = REHOME_NEVER,
  };
}

void rehome_connection_close(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  if (connection->socket >= 0) close(connection->socket);
  bool again = agent->socket_path[0] != '\0';
  bool was_open = connection->socket >= 0;
  connection->socket = -1;
  connection->state = REHOME_CONNECTION_DOWN;
  connection->connect_at_ns = again ? after_ms(REHOME_RECONNECT_MS) : REHOME_NEVER;
  connection->reply_by_ns = REHOME_NEVER;
  connection->register_seq = 0;
  connection->register_at_ns = REHOME_NEVER;
  connection->send_blocked = false;
  connection->lost |= was_open;
}

/* -EAGAIN is the caller's; everything else ends the connection. */
static int send_packet(struct rehome_agent *agent, const struct rehome_packet *packet) {
  int result =
      agent->connection.socket < 0 ? -EPIPE : rehome_wire_send(agent->connection.socket, packet);
  if (result != 0 && result != -EAGAIN) rehome_connection_close(agent);
  return result;
}

/* ---- coming up ---- */

static int open_socket(const struct rehome_agent *agent) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, agent->socket_path, sizeof(address.sun_path));
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

static void say_hello(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  agent->hello.role = agent->role;
  connection->greeted_as = agent->role;
  connection->hello_seq = connection->seq++;
  rehome_packet_init(&agent->out, REHOME_MSG_HELLO, 0, connection->hello_seq);
  rehome_packet_append(&agent->out, &agent->hello, sizeof(agent->hello));
  connection->state = REHOME_CONNECTION_HELLO;
  connection->reply_by_ns = after_ms(REHOME_REPLY_TIMEOUT_MS);
  if (send_packet(agent, &agent->out) == -EAGAIN) rehome_connection_close(agent);
}

static void try_to_connect(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  if (connection->socket < 0) {
    connection->socket = agent->socket_path[0] == '\0' ? -ENOTCONN : open_socket(agent);
  }
  if (connection->socket < 0) {
    connection->socket = -1;
    rehome_connection_close(agent); /* sets the time of the next try */
    return;
  }
  say_hello(agent);
}

static void hello_answered(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  struct rehome_hello_reply reply;
  memcpy(&reply, agent->in.payload, sizeof(reply));
  if (agent->in.header.status != 0 || reply.version != REHOME_PROTOCOL_VERSION) {
    rehome_connection_close(agent);
    return;
  }
  connection->state = REHOME_CONNECTION_UP;
  connection->features = reply.features & agent->hello.features;
  connection->reply_by_ns = REHOME_NEVER;
  connection->register_at_ns = 0; /* a new connection knows nothing of us yet */
  rehome_source_say_again(agent);
}

static void register_answered(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  bool refused = agent->in.header.status != 0;
  connection->register_seq = 0;
  connection->reply_by_ns = REHOME_NEVER;
  connection->register_at_ns = refused ? after_ms(REHOME_REGISTER_RETRY_MS) : REHOME_NEVER;
}

/* ---- what we have to say ---- */

static bool registration_due(struct rehome_agent *agent, uint64_t now) {
  pthread_mutex_lock(&agent->lock);
  if (!agent->has_registration) agent->connection.register_at_ns = REHOME_NEVER;
  bool due = agent->has_registration &&
             (agent->registration_changed || now >= agent->connection.register_at_ns);
  pthread_mutex_unlock(&agent->lock);
  return due;
}

static void send_registration(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  connection->register_seq = connection->seq++;
  rehome_packet_init(&agent->out, REHOME_MSG_REGISTER, 0, connection->register_seq);
  pthread_mutex_lock(&agent->lock);
  agent->registration_changed = false;
  rehome_packet_append(&agent->out, &agent->registration, sizeof(agent->registration));
  pthread_mutex_unlock(&agent->lock);
  connection->register_at_ns = REHOME_NEVER;
  connection->reply_by_ns = after_ms(REHOME_REPLY_TIMEOUT_MS);
  if (send_packet(agent, &agent->out) == -EAGAIN) rehome_connection_close(agent);
}

static void send_events(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  struct rehome_event event;
  connection->send_blocked = false;
  while (connection->state == REHOME_CONNECTION_UP && rehome_events_peek(agent, &event)) {
    rehome_packet_init(&agent->out, REHOME_MSG_EVENT, 0, connection->seq);
    rehome_packet_append(&agent->out, &event, sizeof(event));
    int result = send_packet(agent, &agent->out);
    if (result == -EAGAIN) connection->send_blocked = true;
    if (result != 0) return;
    connection->seq++;
    rehome_events_pop(agent);
  }
}

/* An owner is known by its registration, so that goes before its events; a target's first run comes
 * before the registration that follows from it. */
static void say_what_is_due(struct rehome_agent *agent, uint64_t now) {
  struct rehome_connection *connection = &agent->connection;
  bool idle = connection->register_seq == 0;
  if (connection->greeted_as == REHOME_ROLE_TARGET) send_events(agent);
  if (connection->state == REHOME_CONNECTION_UP && idle && registration_due(agent, now)) {
    send_registration(agent);
    return;
  }
  if (idle) send_events(agent);
}

void rehome_connection_flush(struct rehome_agent *agent) {
  if (agent->connection.state == REHOME_CONNECTION_UP) send_events(agent);
}

void rehome_connection_tick(struct rehome_agent *agent) {
  struct rehome_connection *connection = &agent->connection;
  uint64_t now = rehome_monotonic_ns();
  if (now >= connection->reply_by_ns) rehome_connection_close(agent);
  switch (connection->state) {
    case REHOME_CONNECTION_DOWN:
      if (now >= connection->connect_at_ns) try_to_connect(agent);
      return;
    case REHOME_CONNECTION_HELLO:
      return;
    case REHOME_CONNECTION_UP:
      say_what_is_due(agent, now);
      return;
  }
}

uint64_t rehome_connection_deadline(const struct rehome_agent *agent) {
  const struct rehome_connection *connection = &agent->connection;
  switch (connection->state) {
    case REHOME_CONNECTION_DOWN:
      return connection->connect_at_ns;
    case REHOME_CONNECTION_HELLO:
      return connection->reply_by_ns;
    case REHOME_CONNECTION_UP:
      return earlier(connection->reply_by_ns, connection->register_at_ns);
  }
  return REHOME_NEVER;
}

/* ---- what arrives ---- */

/* False: a violation. */
static bool handle_packet(struct rehome_agent *agent) {
  const struct rehome_header *header = &agent->in.header;
  struct rehome_connection *connection = &agent->connection;
  bool is_reply = (header->flags & REHOME_FLAG_REPLY) != 0;
  if (!is_reply) {
    if (connection->state != REHOME_CONNECTION_UP) return false;
    rehome_request_handle(agent);
    return true;
  }
  if (connection->state == REHOME_CONNECTION_HELLO && header->type == REHOME_MSG_HELLO &&
      header->seq == connection->hello_seq) {
    hello_answered(agent);
    return true;
  }
  if (connection->register_seq != 0 && header->type == REHOME_MSG_REGISTER &&
      header->seq == connection->register_seq) {
    register_answered(agent);
    return true;
  }
  return false;
}

void rehome_connection_readable(struct rehome_agent *agent) {
  for (int i = 0; i < REHOME_MAX_MESSAGES_PER_TURN && agent->connection.socket >= 0; i++) {
    int result = rehome_wire_receive(agent->connection.socket, REHOME_END_AGENT, &agent->in);
    if (result == -EAGAIN) return;
    if (result != 0) {
      rehome_connection_close(agent);
      return;
    }
    bool sane = handle_packet(agent);
    rehome_packet_close_fds(&agent->in);
    if (!sane) rehome_connection_close(agent);
  }
}

/* ---- answers ---- */

/* A peer that asks and does not read the answers is broken. */
static void send_answer(struct rehome_agent *agent) {
  if (send_packet(agent, &agent->out) == -EAGAIN) rehome_connection_close(agent);
}

uint32_t rehome_connection_answer(struct rehome_agent *agent, const struct rehome_vm *vm,
                                  struct rehome_error *error) {
  rehome_packet_init(&agent->out, (enum rehome_message)agent->in.header.type, REHOME_FLAG_REPLY,
                     agent->in.header.seq);
  rehome_description_append(&agent->out, vm);
  int result = agent->connection.socket < 0
                   ? -EPIPE
                   : rehome_wire_send(agent->connection.socket, &agent->out);
  if (result == 0) return REHOME_REFUSED_NONE;
  if (result == -EAGAIN || result == -EPIPE) {
    rehome_connection_close(agent);
    return REHOME_REFUSED_NONE;
  }
  return rehome_error_set(error, REHOME_REFUSED_KERNEL, "sendmsg with %u fds: %s", vm->fd_count,
                          strerror(-result));
}

void rehome_connection_reply(struct rehome_agent *agent, const void *payload, size_t size) {
  rehome_packet_init(&agent->out, (enum rehome_message)agent->in.header.type, REHOME_FLAG_REPLY,
                     agent->in.header.seq);
  if (payload != NULL) rehome_packet_append(&agent->out, payload, size);
  send_answer(agent);
}

void rehome_connection_refuse(struct rehome_agent *agent, const struct rehome_error *error) {
  struct rehome_refusal_text text;
  rehome_copy_text(text.text, sizeof(text.text), error->text);
  rehome_packet_init(&agent->out, (enum rehome_message)agent->in.header.type, REHOME_FLAG_REPLY,
                     agent->in.header.seq);
  agent->out.header.status = error->refusal;
  rehome_packet_append(&agent->out, &text, sizeof(text));
  send_answer(agent);
}
