// SPDX-License-Identifier: Apache-2.0
//
// A sequence of datagrams from a hostile daemon against the whole C library, as source or target.
// Promises: every request is answered, or ends the connection; a guest is paused before it is
// resumed, and never resumed after it was handed over; a stopped agent holds no descriptor.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>

#include "kvmglue/fd_passing.h"
#include "tools/fuzz/descriptors.h"
#include "tools/fuzz/fuzz_target.h"
#include "vmm/agent/rehome_agent.h"
#include "vmm/agent/wire.h"

namespace rehome::fuzz {
namespace {

constexpr char kMigration[] = "m-1";
// ns. Both deadlines of the blocks: each input waits until a source that was started has settled.
constexpr uint64_t kTimeoutNs = 1000000;
// The agent answers at once: whoever waits so long, running, has found a hang.
constexpr int kAnswerSliceMs = 1000, kAnswerSlices = 10;
constexpr size_t kMaxMessages = 16;

// ---- a process that may be killed as the other VMM ----

pid_t victim = -1;

[[noreturn]] void BeVictim() {
  // It was forked with both ends of the connection.
  (void)close_range(3, UINT_MAX, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (;;) pause();
}

// A pidfd of a living child.
UniqueFd VictimPidfd() {
  if (victim > 0 && waitpid(victim, nullptr, WNOHANG) == victim) victim = -1;
  if (victim < 0) {
    victim = fork();
    if (victim == 0) BeVictim();
  }
  REHOME_PROMISE(victim > 0);
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, victim, 0)));
}

// ---- descriptors: those of descriptors.h, and these ----

enum SpecialFd : uint8_t { kVictim = 0x80, kTraceArea = 0xa0, kBlock = 0xc0 };

// Bits 0-1: terms; 2-4: a verdict that is there already; 5: of another migration.
UniqueFd OpenBlock(uint8_t which) {
  const uint32_t strategies[] = {REHOME_STRATEGY_MAP, REHOME_STRATEGY_MAP, REHOME_STRATEGY_MAP_MOVE,
                                 REHOME_STRATEGY_LINK};
  const uint32_t policies[] = {REHOME_FENCE_AFTER_RESUME, REHOME_FENCE_BEFORE_RESUME,
                               REHOME_FENCE_KERNEL, REHOME_FENCE_AFTER_RESUME};
  const rehome_block_params params = {.migration_id = (which & 32) != 0 ? "m-2" : kMigration,
                                      .state_capacity = 4096,
                                      .claim_timeout_ns = kTimeoutNs,
                                      .resolve_timeout_ns = kTimeoutNs,
                                      .fence_policy = policies[which & 3],
                                      .strategy = strategies[which & 3]};
  UniqueFd fd(rehome_block_create(&params));
  const uint32_t verdict = (which >> 2) & 7;
  if (verdict != 0) {
    REHOME_PROMISE(pwrite(fd.borrow().raw(), &verdict, sizeof(verdict),
                          offsetof(rehome_block_header, verdict_word)) == sizeof(verdict));
  }
  return fd;
}

UniqueFd OpenFd(uint8_t kind) {
  if (kind >= kBlock) return OpenBlock(kind & 63);
  if (kind >= kTraceArea) return UniqueFd(rehome_trace_create_area());
  const bool is_pidfd = kind >= kVictim || kind % static_cast<uint8_t>(FdKind::kCount) ==
                                               static_cast<uint8_t>(FdKind::kOwnPidfd);
  // Whoever is named here may be killed by the other side: not this process.
  return is_pidfd ? VictimPidfd() : OpenKind(kind);
}

// ---- the VMM ----

struct Vmm {
  UniqueFd memory = OpenKind(static_cast<uint8_t>(FdKind::kMemory));
  bool vm_is_alive = true;
  bool pause_fails = false;
  bool runs = false;
  bool handed_over = false;
};

void FillVm(const Vmm& vmm, rehome_vm* vm) {
  std::strcpy(vm->vm_id, "vm-1");
  vm->vcpu_count = 1;
  vm->fds[0] = {{REHOME_FD_MEMORY, 0, ""}, vmm.memory.borrow().raw()};
  vm->fds[1] = {{REHOME_FD_VM, 0, ""}, vmm.memory.borrow().raw()};
  vm->fd_count = 2;
  vm->slots[0].size = kMemoryBytes;
  vm->slot_count = 1;
}

rehome_agent_ops MakeOps() {
  rehome_agent_ops ops = {};
  ops.describe = [](void* opaque, int, rehome_vm* vm, rehome_error*) {
    REHOME_PROMISE(static_cast<Vmm*>(opaque)->runs);
    FillVm(*static_cast<Vmm*>(opaque), vm);
    return 0;
  };
  ops.pause_and_save = [](void* opaque, rehome_block* block, uint64_t* size, rehome_error*) {
    Vmm* self = static_cast<Vmm*>(opaque);
    REHOME_PROMISE(self->runs && !self->handed_over);
    self->runs = false;
    std::memset(block->state, 0x5a, block->state_capacity);
    *size = block->state_capacity;
    return self->pause_fails ? -EIO : 0;
  };
  ops.layout_digest = [](void*) -> uint64_t { return 0; };
  ops.probe_vm = [](void* opaque) { return static_cast<Vmm*>(opaque)->vm_is_alive ? 0 : -EIO; };
  ops.resume = [](void* opaque) {
    Vmm* self = static_cast<Vmm*>(opaque);
    REHOME_PROMISE(!self->runs && !self->handed_over && self->vm_is_alive);
    self->runs = true;
  };
  ops.handed_over = [](void* opaque) {
    Vmm* self = static_cast<Vmm*>(opaque);
    REHOME_PROMISE(!self->runs);
    self->handed_over = true;
  };
  ops.released = [](void* opaque) { REHOME_PROMISE(!static_cast<Vmm*>(opaque)->runs); };
  ops.prepare = [](void* opaque, uint32_t, uint32_t, const rehome_vm* source, rehome_block*,
                   rehome_vm* target, rehome_error*) {
    for (uint32_t i = 0; i < source->fd_count; ++i) {
      REHOME_PROMISE(close(source->fds[i].fd) == 0);
    }
    FillVm(*static_cast<Vmm*>(opaque), target);
    return 0;
  };
  ops.cancelled = [](void*) {};
  return ops;
}

// ---- the daemon ----

class Daemon {
 public:
  explicit Daemon(UniqueFd socket) : socket_(std::move(socket)) {}

  bool ended() const { return ended_; }

  // Sends, and waits until the agent has answered `seq` or has closed the connection. REGISTER and
  // EVENT, which cross, are taken; a REGISTER is granted.
  void Exchange(const Bytes& datagram, const std::vector<UniqueFd>& fds, uint64_t seq) {
    if (ended_ || !SendAnything(socket_.borrow(), datagram, fds)) return;
    if (IsTraceOffer(datagram)) SendProbe(seq);
    while (!ended_ && !ReceiveAnswer(seq)) continue;
  }
  void AnswerHello() {
    REHOME_PROMISE(Receive() && packet_.header.type == REHOME_MSG_HELLO);
    rehome_hello_reply reply = {};
    reply.version = REHOME_PROTOCOL_VERSION;
    reply.features = REHOME_FEATURES_ALL;
    Reply(std::as_bytes(std::span(&reply, 1)));
  }
  bool all_were_accepted() const { return accepted_; }

 private:
  // An offer is not answered; the answer to a request after it says that it has been looked at.
  static bool IsTraceOffer(const Bytes& datagram) {
    rehome_header header = {};
    std::memcpy(&header, datagram.data(), std::min(datagram.size(), sizeof(header)));
    return header.type == REHOME_MSG_TRACE;
  }
  void SendProbe(uint64_t seq) {
    static rehome_packet probe;
    rehome_packet_init(&probe, REHOME_MSG_PROBE, 0, seq);
    const rehome_migration_ref reference = {"m-1"};
    rehome_packet_append(&probe, &reference, sizeof(reference));
    (void)rehome_wire_send(socket_.borrow().raw(), &probe);
  }

  bool Receive() {
    pollfd poller = {.fd = socket_.borrow().raw(), .events = POLLIN, .revents = 0};
    int ready = 0;  // A slice is used up by a machine that stands still, or by libFuzzer's alarm.
    for (int i = 0; i < kAnswerSlices && ready <= 0; ++i) ready = poll(&poller, 1, kAnswerSliceMs);
    REHOME_PROMISE(ready == 1);
    const int result = rehome_wire_receive(socket_.borrow().raw(), REHOME_END_DAEMON, &packet_);
    ended_ = result != 0;
    // The library never says what its own receiver would refuse.
    REHOME_PROMISE(result == 0 || result == -EPIPE || result == -ECONNRESET);
    if (!ended_) rehome_packet_close_fds(&packet_);
    return !ended_;
  }

  bool ReceiveAnswer(uint64_t seq) {
    if (!Receive()) return true;
    if (packet_.header.type == REHOME_MSG_REGISTER) Reply({});
    if ((packet_.header.flags & REHOME_FLAG_REPLY) == 0) return false;
    REHOME_PROMISE(packet_.header.seq == seq);
    accepted_ = accepted_ && packet_.header.status == REHOME_REFUSED_NONE;
    return true;
  }

  void Reply(std::span<const std::byte> payload) {
    static rehome_packet reply;
    rehome_packet_init(&reply, static_cast<rehome_message>(packet_.header.type), REHOME_FLAG_REPLY,
                       packet_.header.seq);
    rehome_packet_append(&reply, payload.data(), payload.size());
    (void)rehome_wire_send(socket_.borrow().raw(), &reply);
  }

  UniqueFd socket_;
  rehome_packet packet_;
  bool ended_ = false;
  bool accepted_ = true;
};

// ---- an input ----

struct Start {
  uint8_t is_target;
  uint8_t vm_is_dead;
  uint8_t pause_fails;
};

struct Message {
  uint8_t is_raw;  // 0: the header is made, so that the payload is looked at
  uint8_t type;
  uint8_t fd_count;
  uint8_t reserved;
  uint16_t size;
};

Bytes DatagramOf(const Message& message, std::span<const std::byte> payload, size_t fds,
                 uint64_t* seq) {
  Bytes datagram;
  rehome_header header = {};
  if (message.is_raw % 2 == 0) {
    header = {.magic = REHOME_PROTOCOL_MAGIC,
              .version = REHOME_PROTOCOL_VERSION,
              .type = message.type,
              .seq = *seq,
              .payload_size = static_cast<uint32_t>(payload.size()),
              .fd_count = static_cast<uint32_t>(fds)};
    Append(datagram, header);
  } else if (payload.size() >= sizeof(header)) {
    std::memcpy(&header, payload.data(), sizeof(header));
    *seq = header.seq;
  }
  AppendBytes(datagram, payload);
  if (datagram.empty()) datagram.resize(1);
  return datagram;
}

void Send(Input& in, Daemon& daemon, uint64_t seq) {
  const Message message = in.Take<Message>();
  std::vector<UniqueFd> fds;
  for (std::byte kind : in.TakeBytes(message.fd_count % (REHOME_MAX_FDS + 1))) {
    fds.push_back(OpenFd(static_cast<uint8_t>(kind)));
  }
  const auto payload = in.TakeBytes(message.size % REHOME_MAX_PAYLOAD);
  daemon.Exchange(DatagramOf(message, payload, fds.size(), &seq), fds, seq);
}

bool Talk(Input& in, bool is_target, Vmm* vmm) {
  static const rehome_agent_ops ops = MakeOps();
  static rehome_trace* const trace = rehome_trace_new();
  auto pair = CreateSocketPair();
  REHOME_PROMISE(pair.ok());
  rehome_agent_config config = {};
  config.connection_fd = pair->second.Release();
  config.role = is_target ? REHOME_ROLE_TARGET : REHOME_ROLE_OWNER;
  config.features = REHOME_FEATURES_ALL;
  config.state_format_read_max = 7;
  config.vmm_name = "fuzz";
  config.vmm_version = "1";
  config.trace = trace;
  vmm->runs = !is_target;
  rehome_agent* agent = rehome_agent_start(&config, &ops, vmm);
  REHOME_PROMISE(agent != nullptr);
  Daemon daemon(std::move(pair->first));
  daemon.AnswerHello();
  uint64_t seq = 0;
  while (!in.empty() && !daemon.ended() && seq < kMaxMessages) Send(in, daemon, ++seq);
  const bool sound = !daemon.ended() && daemon.all_were_accepted();
  rehome_agent_stop(agent);
  return sound;
}

// ---- seeds ----

class SeedBuilder {
 public:
  SeedBuilder(const char* name, bool is_target) : seed_{.name = name, .bytes = {}} {
    Append(seed_.bytes, Start{.is_target = is_target, .vm_is_dead = 0, .pause_fails = 0});
  }
  template <typename T>
  SeedBuilder& Add(rehome_message type, T payload, std::vector<uint8_t> fds = {},
                   const Bytes& more = {}) {
    std::strcpy(reinterpret_cast<char*>(&payload), kMigration);  // all begin with it
    Append(seed_.bytes, Message{.is_raw = 0,
                                .type = static_cast<uint8_t>(type),
                                .fd_count = static_cast<uint8_t>(fds.size()),
                                .reserved = 0,
                                .size = static_cast<uint16_t>(sizeof(payload) + more.size())});
    for (uint8_t fd : fds) Append(seed_.bytes, fd);
    Append(seed_.bytes, payload);
    AppendBytes(seed_.bytes, more);
    return *this;
  }
  SeedBuilder& Order(rehome_message type) { return Add(type, rehome_migration_ref{}); }
  SeedBuilder& Describe() { return Add(REHOME_MSG_DESCRIBE, rehome_describe{.hold = 1}); }
  SeedBuilder& OfferTrace() { return Add(REHOME_MSG_TRACE, rehome_migration_ref{}, {kTraceArea}); }
  SeedBuilder& ArmSource(uint8_t block) {
    return Add(REHOME_MSG_ARM_SOURCE, rehome_arm_source{}, {block, kVictim});
  }
  Seed Done() const { return seed_; }

 private:
  Seed seed_;
};

Seed Target() {
  rehome_description fixed = {};
  std::strcpy(fixed.vm_id, "vm-1");
  fixed.vcpu_count = 1;
  fixed.slot_count = 1;
  fixed.fd_count = 3;
  Bytes description;
  Append(description, fixed);
  Append(description, rehome_memslot{.size = kMemoryBytes});
  Append(description, rehome_fd_entry{.role = REHOME_FD_MEMORY});
  Append(description, rehome_fd_entry{.role = REHOME_FD_CONFIG});
  Append(description, rehome_fd_entry{.role = REHOME_FD_BLOCK});
  const rehome_prepare prepare = {.strategy = REHOME_STRATEGY_MAP,
                                  .fence_policy = REHOME_FENCE_AFTER_RESUME};
  return SeedBuilder("target", true)
      .Add(REHOME_MSG_PREPARE, prepare,
           {static_cast<uint8_t>(FdKind::kMemory), static_cast<uint8_t>(FdKind::kSealedConfig),
            kBlock},
           description)
      .Add(REHOME_MSG_ARM_TARGET, rehome_arm{}, {kVictim})
      .Order(REHOME_MSG_PROBE)
      .Order(REHOME_MSG_CANCEL)
      .Done();
}

}  // namespace

// A Start, then Messages, each with its descriptors (a byte each: which) and its payload.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const Start start = in.Take<Start>();
  const size_t before = CountOpenFds();
  bool sound = false;
  {
    Vmm vmm;
    vmm.vm_is_alive = start.vm_is_dead % 2 == 0;
    vmm.pause_fails = start.pause_fails % 2 != 0;
    sound = Talk(in, start.is_target % 2 != 0, &vmm);
  }
  REHOME_PROMISE(CountOpenFds() == before);
  return sound;
}

std::vector<Seed> Seeds() {
  return {
      SeedBuilder("source-held", false)
          .Describe()
          .Describe()
          .Order(REHOME_MSG_PROBE)
          .Order(REHOME_MSG_CANCEL)
          .Done(),
      SeedBuilder("source-started", false)
          .Describe()
          .Add(REHOME_MSG_TRACE, rehome_migration_ref{}, {kTraceArea})
          .ArmSource(kBlock)
          .Order(REHOME_MSG_START)
          .Order(REHOME_MSG_PROBE)
          .Done(),
      SeedBuilder("source-armed-with-move", false)
          .Describe()
          .ArmSource(kBlock + 2)
          .Order(REHOME_MSG_CANCEL)
          .Done(),
      Target(),
  };
}

}  // namespace rehome::fuzz
