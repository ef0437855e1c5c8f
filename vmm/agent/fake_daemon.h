// SPDX-License-Identifier: Apache-2.0
//
// The daemon's end of the agent protocol for tests: it does what it is told, right or wrong.
#ifndef REHOME_VMM_AGENT_FAKE_DAEMON_H_
#define REHOME_VMM_AGENT_FAKE_DAEMON_H_

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/agent/description.h"
#include "vmm/agent/protocol.h"
#include "vmm/agent/wire.h"

namespace rehome {

// Bound of every wait for something that must happen; a test that reaches it fails.
inline constexpr int kFakeDaemonTimeoutMs = 20000;

// One connection. Not thread-safe. Owns its socket and the fds of the last answer.
class FakeLink {
 public:
  FakeLink() = default;
  explicit FakeLink(int socket);
  FakeLink(FakeLink&& other) noexcept;
  FakeLink& operator=(FakeLink&& other) noexcept;
  ~FakeLink();

  bool open() const { return socket_ >= 0; }
  void Close();

  // Receives HELLO and answers with `features` and `status`.
  std::optional<rehome_hello> AnswerHello(uint32_t status = REHOME_REFUSED_NONE,
                                          uint32_t features = REHOME_FEATURES_ALL);
  // Receives REGISTER (events before it are kept) and answers.
  std::optional<rehome_register> AnswerRegister(uint32_t status = REHOME_REFUSED_NONE);

  // Sends a request and waits for its answer; events and registrations that arrive meanwhile are
  // kept, and the latter accepted. The status, or nothing if the connection ended. The answer and
  // its fds are in answer() until the next call.
  std::optional<uint32_t> Request(rehome_message type, std::span<const uint8_t> payload,
                                  const std::vector<int>& fds = {});
  rehome_packet& answer() { return *packet_; }
  std::string refusal_text() const;

  // Requests whose payload is the migration id.
  std::optional<uint32_t> Order(rehome_message type, const std::string& migration_id);
  std::optional<uint32_t> Describe(const std::string& migration_id, bool hold, rehome_vm* vm);
  std::optional<uint32_t> Prepare(const rehome_prepare& terms, const rehome_vm& source,
                                  rehome_vm* target);
  std::optional<uint32_t> ArmTarget(const std::string& migration_id, int source_pidfd);
  // `state_format`: nothing for what the last Describe() gave as state_format. Not sent unless
  // FORMATS was agreed on.
  std::optional<uint32_t> ArmSource(const std::string& migration_id, uint64_t layout_digest,
                                    int block, int target_pidfd,
                                    std::optional<uint32_t> state_format = std::nullopt);
  std::optional<rehome_probe> Probe(const std::string& migration_id);
  // The block is the last of vm->fds.
  std::optional<uint32_t> HandIn(const std::string& migration_id, rehome_vm* vm);

  // The next event that is not of another kind; nothing if the connection ends first.
  std::optional<rehome_event> AwaitEvent(uint32_t kind);
  // The process at the other end (SO_PEERCRED).
  pid_t peer() const;
  // Waits for the peer to close. False: it did not.
  bool AwaitClosed();

  // Sends bytes as they are.
  bool SendRaw(std::span<const uint8_t> bytes, const std::vector<int>& fds = {});

  const std::deque<rehome_event>& events() const { return events_; }
  const std::deque<rehome_register>& registrations() const { return registrations_; }

 private:
  // Receives into packet_; events and registrations are kept and taken care of. False: ended.
  bool Receive();
  bool ReceiveAnswer(rehome_message type, uint64_t seq);
  void KeepRequest();

  int socket_ = -1;
  uint64_t seq_ = 100;
  uint32_t register_status_ = REHOME_REFUSED_NONE;
  uint32_t features_ = 0;          // agreed on
  uint32_t described_format_ = 0;  // by the last Describe()
  std::unique_ptr<rehome_packet> packet_;
  std::deque<rehome_event> events_;
  std::deque<rehome_register> registrations_;
};

// A connection with an fd for the agent's end, to be inherited.
struct FakePair {
  FakeLink daemon;
  int agent_fd;  // the caller's
};
FakePair MakeFakePair();

// A listening socket in a directory of its own.
class FakeDaemon {
 public:
  FakeDaemon();
  ~FakeDaemon();
  const std::string& path() const { return path_; }
  // Waits for a connection. HELLO has not been answered.
  FakeLink Accept();
  // Stops and starts listening: a daemon that is gone and comes back.
  void StopListening();
  void StartListening();

 private:
  std::string directory_;
  std::string path_;
  int socket_ = -1;
};

}  // namespace rehome

#endif  // REHOME_VMM_AGENT_FAKE_DAEMON_H_
