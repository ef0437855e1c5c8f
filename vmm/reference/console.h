// SPDX-License-Identifier: Apache-2.0
//
// The guest's serial line as a UNIX stream socket that one client at a time attaches to. Both the
// listening and the connected socket move with the guest, so a client stays attached across a
// migration and somebody who connects during one is found by the new VMM.
//
// No byte is lost or doubled by a migration: what the client has not been sent yet is part of the
// saved state, and what it typed is taken from the socket only when the guest looks (serial.h). A
// client that does not read is something else: beyond kMaxPending its output is dropped, and
// counted. Without a client the line is unplugged: output goes nowhere.
#ifndef REHOME_VMM_REFERENCE_CONSOLE_H_
#define REHOME_VMM_REFERENCE_CONSOLE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvmglue/fd.h"
#include "vmm/reference/serial.h"

namespace rehome {

// Names of the two descriptors in a migration.
inline constexpr char kConsoleListenFd[] = "console.listen";
inline constexpr char kConsoleClientFd[] = "console.client";

// Bytes kept for a client that does not read: some hundred lines, and little enough to be copied in
// a blackout.
inline constexpr size_t kMaxPending = 64 << 10;

struct ConsoleState {
  bool client_attached = false;
  uint64_t dropped_bytes = 0;
  std::string pending;  // for the client, at most kMaxPending
};

// Thread-safe. Its thread accepts clients and finishes sending to slow ones.
class Console : public SerialLine {
 public:
  // Without a socket: output is dropped.
  static absl::StatusOr<std::unique_ptr<Console>> Unplugged();
  // Listens on `path`, replacing a socket file that nobody listens on any more.
  // ALREADY_EXISTS / CONSOLE_IN_USE if somebody does, INVALID_ARGUMENT / CONSOLE_PATH_TOO_LONG,
  // or OS_CALL_FAILED.
  static absl::StatusOr<std::unique_ptr<Console>> Listen(const std::string& path);
  // Takes over sockets of another VMM, held until Release(); `client` may be empty.
  // INVALID_ARGUMENT / CONSOLE_BAD_FD if one is not a UNIX stream socket (listening, connected).
  static absl::StatusOr<std::unique_ptr<Console>> Adopt(UniqueFd listener, UniqueFd client);
  ~Console() override;

  // SerialLine. Called by a vCPU thread.
  void Send(uint8_t byte) override;
  size_t Receive(std::span<uint8_t> out) override;

  // For a serial port with interrupts: while AwaitInput(true) holds, `handler` is called on the
  // console's thread when there is something to Receive(), held or not, until that has taken it.
  // When SetInputHandler() returns the former handler is not running and will not be called.
  // AwaitInput() may be called by a handler, SetInputHandler() may not.
  void SetInputHandler(std::function<void()> handler);
  void AwaitInput(bool awaited);

  // From when this returns until Release() no client is accepted, so that the sockets to hand over
  // stay the same. Output and input of the attached client go on.
  void Hold();
  void Release();
  bool held() const;

  // Open until Release(); invalid if there is none. REQUIRES: held.
  BorrowedFd listener() const;
  BorrowedFd client() const;

  // REQUIRES: held, and no vCPU runs. Does not allocate if state.pending has room reserved.
  void Save(ConsoleState& state) const;
  void Restore(const ConsoleState& state);

  // Removes the socket's file; for the owner that ends with the guest.
  void RemoveSocketFile();

 private:
  Console(UniqueFd listener, UniqueFd client, UniqueFd wake, bool held);
  static absl::StatusOr<std::unique_ptr<Console>> Create(UniqueFd listener, UniqueFd client,
                                                         bool held);
  void Loop();
  void Serve(bool listener_ready);
  bool CanHearLocked() const;
  void NoticeHangUpLocked();
  void FlushLocked();
  void DropClientLocked();
  void Wake();

  const UniqueFd listener_;
  const UniqueFd wake_;  // eventfd: the thread looks at the state again

  std::mutex handler_mutex_;  // held while the handler runs; taken before mutex_
  std::function<void()> input_handler_;

  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  UniqueFd client_;
  bool input_awaited_ = false;
  bool input_ended_ = false;  // the client types no more; it may still listen
  bool hung_up_ = false;      // the client has gone and left input behind
  bool gone_ = false;         // it has gone; its descriptor stays open while it may be handed over
  bool held_;
  bool stopping_ = false;
  std::string pending_;
  uint64_t dropped_bytes_ = 0;

  std::thread thread_;
};

}  // namespace rehome

#endif  // REHOME_VMM_REFERENCE_CONSOLE_H_
