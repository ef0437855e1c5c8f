// SPDX-License-Identifier: Apache-2.0
//
// Datagrams with descriptors of a hostile VMM against the daemon's end of a real socket: HELLO,
// REGISTER, events, and an answer to a request that a thread is waiting for. Promises: each ends in
// a defined error or in values that are true of the descriptors that came; and no descriptor is
// left open, whatever came.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "daemon/agent_connection.h"
#include "daemon/process_links.h"
#include "daemon/testing/wire_messages.h"
#include "kvmglue/fd_passing.h"
#include "kvmglue/status_reason.h"
#include "tools/fuzz/descriptors.h"
#include "tools/fuzz/fuzz_target.h"

namespace rehome::fuzz {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing_support::BytesOf;
using testing_support::MakeHeader;

// A request whose answer does not come ends with the connection, which the input's end closes.
constexpr milliseconds kTimeout{20000};
constexpr size_t kMaxMessages = 24;

enum Call : uint8_t { kNone, kDescribe, kPrepare, kArmTarget, kStart, kProbe, kCalls };

// Before each datagram the daemon may send a request.
struct Message {
  uint8_t call;
  uint8_t is_raw;  // 0: a header is made for the payload, with the `seq` of the last request
  uint8_t type;
  uint8_t is_reply;
  uint8_t status;
  uint8_t repair;  // 0: a description gets the inodes and the digest that are true
  uint8_t fd_count;
  uint8_t reserved;
  uint16_t size;
};

// What was accepted is true.
void CheckDescription(const VmDescription& vm) {
  REHOME_PROMISE(vm.vm.valid() && !vm.memory.empty());
  REHOME_PROMISE(vm.memory.size() <= REHOME_MAX_MEMORIES);
  REHOME_PROMISE(!vm.layout.slots.empty() && vm.layout.slots.size() <= REHOME_MAX_SLOTS);
  for (const Memslot& slot : vm.layout.slots) {
    const bool is_backed =
        std::any_of(vm.memory.begin(), vm.memory.end(), [&slot](const UniqueFd& memory) {
          const auto file = Identify(memory.borrow());
          return file.ok() && file->id == slot.inode && slot.offset <= file->size_bytes &&
                 slot.size_bytes <= file->size_bytes - slot.offset;
        });
    REHOME_PROMISE(is_backed);
  }
  REHOME_PROMISE(vm.layout_digest == vm.layout.Digest());
}

class World {
 public:
  World() : kinds_(NewSimFdKinds()) {
    auto pair = CreateSocketPair();
    auto adoption = Adoption::Create();
    REHOME_PROMISE(pair.ok() && adoption.ok());
    agent_ = std::move(pair->first);
    adoption_ = *adoption;
    connection_ = std::make_unique<AgentConnection>(
        SocketVmmLink::Peer{.socket = std::move(pair->second),
                            .pidfd = OpenKind(static_cast<uint8_t>(FdKind::kOwnPidfd)),
                            .process = {.pid = 1, .start_ticks = 1, .pidfd_inode = 1}},
        *std::move(adoption),
        AgentConnection::Shared{
            .vms = &vms_, .links = &links_, .kinds = kinds_.get(), .claim_timeout = kTimeout},
        steady_clock::now() + kTimeout);
  }

  ~World() {
    Close(MakeStatus(absl::StatusCode::kUnavailable, "AGENT_GONE", "the input has ended"));
  }

  bool closed() const { return closed_; }
  bool all_answers_were_sound() const { return sound_; }

  void Send(Input& in) {
    const Message message = in.Take<Message>();
    Request(message.call % kCalls);
    std::vector<UniqueFd> fds;
    for (std::byte kind : in.TakeBytes(message.fd_count % (2 * REHOME_MAX_FDS))) {
      fds.push_back(OpenKind(static_cast<uint8_t>(kind)));
    }
    const auto payload = in.TakeBytes(message.size % (REHOME_MAX_MESSAGE + 16));
    SendAnything(agent_.borrow(), DatagramOf(message, payload, fds), fds);
    const absl::Status status = connection_->HandleReadable();
    if (!status.ok()) Close(status);
    TakeLink();
    AwaitCall();
  }

 private:
  Bytes DatagramOf(const Message& message, std::span<const std::byte> payload,
                   const std::vector<UniqueFd>& fds) const {
    Bytes bytes(payload.begin(), payload.end());
    if (message.repair == 0) Repair(bytes, fds);
    if (message.is_raw != 0) return bytes.empty() ? Bytes(1) : bytes;
    rehome_header header =
        MakeHeader(REHOME_MSG_HELLO, message.is_reply % 2 != 0, seq_, bytes.size(), fds.size());
    header.type = message.type;
    header.status = message.status;
    return testing_support::Datagram(header, bytes);
  }

  // A fuzzer guesses neither inodes nor digests; a hostile VMM looks them up.
  static void Repair(Bytes& bytes, const std::vector<UniqueFd>& fds) {
    rehome_description head;
    if (bytes.size() < sizeof(head)) return;
    std::memcpy(&head, bytes.data(), sizeof(head));
    std::vector<rehome_memslot> slots(std::min<size_t>(head.slot_count, REHOME_MAX_SLOTS));
    const size_t slot_bytes = slots.size() * sizeof(rehome_memslot);
    if (slots.empty() || bytes.size() - sizeof(head) < slot_bytes) return;
    std::memcpy(slots.data(), bytes.data() + sizeof(head), slot_bytes);
    for (rehome_memslot& slot : slots) {
      // Behind the VM's, in the seeds.
      const size_t index = slot.memory_index + size_t{1};
      if (index >= fds.size()) continue;
      const auto file = Identify(fds[index].borrow());
      if (!file.ok()) continue;
      slot.device = file->id.device;
      slot.inode = file->id.inode;
    }
    head.layout_digest = rehome_layout_digest(slots.data(), slots.size());
    std::memcpy(bytes.data(), &head, sizeof(head));
    std::memcpy(bytes.data() + sizeof(head), slots.data(), slot_bytes);
  }

  // Sends one of the daemon's requests, from a thread that waits for the answer.
  void Request(uint8_t call) {
    if (call == kNone || link_ == nullptr || closed_ || caller_.joinable()) return;
    done_ = false;
    caller_ = std::thread([this, call] {
      answer_ = Perform(call);
      done_ = true;
    });
    // Until it has sent, or has failed to. libFuzzer's alarm (EINTR) is neither.
    pollfd poller = {.fd = agent_.borrow().raw(), .events = POLLIN, .revents = 0};
    while (!done_ && poll(&poller, 1, /*timeout_ms=*/1) <= 0) {
    }
    DrainRequests();
  }

  absl::Status Perform(uint8_t call) {
    switch (call) {
      case kDescribe: {
        const auto vm = link_->Describe("m-1", true, kTimeout, nullptr);
        if (vm.ok()) CheckDescription(*vm);
        return vm.status();
      }
      case kPrepare: {
        const VmDescription source{.vm_id = "vm-1"};
        const auto vm = link_->Prepare({.migration_id = "m-1",
                                        .strategy = Strategy::kMap,
                                        .fence_policy = FencePolicy::kBeforeResume,
                                        .source = &source,
                                        .block = block_.borrow()},
                                       kTimeout, nullptr);
        if (vm.ok()) CheckDescription(*vm);
        return vm.status();
      }
      case kArmTarget:
        return link_->ArmTarget("m-1", block_.borrow(), kTimeout, nullptr);
      case kStart:
        return link_->Start("m-1", kTimeout);
      default:
        return link_->ProbeVm("m-1", kTimeout).status();
    }
  }

  void DrainRequests() {
    for (;;) {
      const auto request = ReceiveMessage(agent_.borrow(), REHOME_MAX_MESSAGE);
      if (!request.ok()) return;
      rehome_header header = {};
      REHOME_PROMISE(request->bytes.size() >= sizeof(header));
      std::memcpy(&header, request->bytes.data(), sizeof(header));
      if ((header.flags & REHOME_FLAG_REPLY) == 0) seq_ = header.seq;
    }
  }

  void TakeLink() {
    DrainRequests();
    if (link_ != nullptr || !connection_->has_said_hello()) return;
    auto link = adoption_->Wait(steady_clock::now(), nullptr);
    if (link.ok()) link_ = *link;
  }

  // If the datagram answered it, or ended the connection.
  void AwaitCall() {
    if (!caller_.joinable()) return;
    if (!closed_ && !answered_by_last_datagram()) return;
    caller_.join();
    REHOME_PROMISE(answer_.ok() || !ReasonOf(answer_).empty());
    sound_ = sound_ && answer_.ok();
    if (link_ != nullptr && link_->closed() && !closed_) Close(answer_);
  }

  bool answered_by_last_datagram() {
    // The reply has been handed to the caller by HandleReadable(); it needs a moment to take it
    // apart, and if there was none it waits on.
    for (int i = 0; i < 50 && !done_; ++i)
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    return done_;
  }

  void Close(const absl::Status& why) {
    if (closed_) return;
    closed_ = true;
    REHOME_PROMISE(!ReasonOf(why).empty());
    (void)connection_->Close(why);
    if (caller_.joinable()) caller_.join();
    REHOME_PROMISE(vms_.List().empty());
  }

  const std::unique_ptr<FdKinds> kinds_;
  VmDirectory vms_;
  ProcessLinks links_;
  UniqueFd agent_;
  UniqueFd block_ = OpenKind(static_cast<uint8_t>(FdKind::kMemory));
  std::shared_ptr<Adoption> adoption_;
  std::unique_ptr<AgentConnection> connection_;
  std::shared_ptr<VmmLink> link_;
  std::thread caller_;
  std::atomic<bool> done_ = false;
  absl::Status answer_;
  uint64_t seq_ = 1;
  bool closed_ = false;
  bool sound_ = true;
};

// ---- seeds ----

class SeedBuilder {
 public:
  explicit SeedBuilder(const char* name) : seed_{.name = name, .bytes = {}} {}
  SeedBuilder& Add(Call call, rehome_message type, const Bytes& payload, bool is_reply,
                   const std::vector<FdKind>& fds = {}) {
    Append(seed_.bytes, Message{.call = call,
                                .is_raw = 0,
                                .type = static_cast<uint8_t>(type),
                                .is_reply = is_reply,
                                .status = 0,
                                .repair = 0,
                                .fd_count = static_cast<uint8_t>(fds.size()),
                                .reserved = 0,
                                .size = static_cast<uint16_t>(payload.size())});
    for (FdKind fd : fds) Append(seed_.bytes, fd);
    AppendBytes(seed_.bytes, payload);
    return *this;
  }
  SeedBuilder& Hello() {
    return Add(kNone, REHOME_MSG_HELLO, BytesOf(testing_support::MakeHello(REHOME_ROLE_TARGET)),
               false);
  }
  SeedBuilder& Event(rehome_event_kind kind) {
    return Add(kNone, REHOME_MSG_EVENT, BytesOf(testing_support::MakeEvent(kind, "m-1")), false);
  }
  Seed Done() const { return seed_; }

 private:
  Seed seed_;
};

testing_support::DescriptionParts Parts(bool is_source) {
  testing_support::DescriptionParts parts = testing_support::MakeDescriptionParts();
  for (rehome_memslot& slot : parts.slots) slot.size = kMemoryBytes;
  if (!is_source) parts.entries.resize(3);
  parts.head.fd_count = static_cast<uint32_t>(parts.entries.size());
  return parts;
}

}  // namespace

// Messages, each with its descriptors (a byte each: of what kind) and its payload.
bool Feed(std::span<const std::byte> input) {
  Input in(input);
  const size_t before = CountOpenFds();
  bool sound = false;
  {
    World world;
    for (size_t i = 0; i < kMaxMessages && !in.empty() && !world.closed(); ++i) world.Send(in);
    sound = !world.closed() && world.all_answers_were_sound();
  }
  REHOME_PROMISE(CountOpenFds() == before);
  return sound;
}

std::vector<Seed> Seeds() {
  const std::vector<FdKind> source_fds = {FdKind::kOtherMemory, FdKind::kMemory,
                                          FdKind::kOtherMemory, FdKind::kSealedConfig,
                                          FdKind::kSocket,      FdKind::kEventFd};
  const std::vector<FdKind> target_fds = {FdKind::kOtherMemory, FdKind::kMemory,
                                          FdKind::kOtherMemory};
  return {
      SeedBuilder("hello").Hello().Done(),
      SeedBuilder("describe")
          .Hello()
          .Add(kDescribe, REHOME_MSG_DESCRIBE, Parts(true).Payload(), true, source_fds)
          .Done(),
      SeedBuilder("prepare")
          .Hello()
          .Add(kPrepare, REHOME_MSG_PREPARE, Parts(false).Payload(), true, target_fds)
          .Done(),
      SeedBuilder("target")
          .Hello()
          .Add(kArmTarget, REHOME_MSG_ARM_TARGET, {}, true)
          .Event(REHOME_EVENT_FIRST_RUN)
          .Add(kNone, REHOME_MSG_REGISTER, BytesOf(testing_support::MakeRegister("vm-1", "m-1")),
               false)
          .Done(),
      SeedBuilder("probe")
          .Hello()
          .Add(kProbe, REHOME_MSG_PROBE, BytesOf(rehome_probe{.vm_alive = 1}), true)
          .Event(REHOME_EVENT_RESUMED)
          .Done(),
  };
}

}  // namespace rehome::fuzz
