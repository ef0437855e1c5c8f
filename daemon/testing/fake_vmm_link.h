// SPDX-License-Identifier: Apache-2.0
//
// A VMM at the other end of a link that answers what the test scripts. Calls that are not scripted
// fail with UNIMPLEMENTED / NOT_SCRIPTED.
#ifndef REHOME_DAEMON_TESTING_FAKE_VMM_LINK_H_
#define REHOME_DAEMON_TESTING_FAKE_VMM_LINK_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/vmm_link.h"

namespace rehome {

// Thread-safe once it is set up: `script`, `hello_`, `process_` are written before anybody uses it.
class FakeVmmLink : public VmmLink {
 public:
  struct Script {
    std::function<absl::StatusOr<VmDescription>(const std::string& migration_id, bool hold)>
        describe;
    std::function<absl::StatusOr<VmDescription>(const PrepareRequest& request)> prepare;
    std::function<absl::Status(const std::string& migration_id)> arm_target;
    std::function<absl::Status(const ArmSourceRequest& request)> arm_source;
    std::function<absl::Status(const std::string& migration_id)> start;
    std::function<absl::Status(const std::string& migration_id)> cancel;
    std::function<absl::Status(const std::string& migration_id)> release;
    std::function<absl::StatusOr<Probe>(const std::string& migration_id)> probe;
    std::function<absl::StatusOr<HandedIn>(const std::string& migration_id)> hand_in;
    std::function<absl::Status(BorrowedFd area)> offer_trace;
    std::function<absl::Status()> await_event;  // an error: the daemon cannot wait
  };

  explicit FakeVmmLink(ProcessIdentity process = {}, VmmHello hello = {})
      : process_(process), hello_(std::move(hello)) {}

  Script script;

  // Puts an event in the queue, as if the VMM had sent it.
  void Send(LinkEvent event);
  // "DESCRIBE m-1", "ARM_SOURCE m-1", ... in the order in which they came.
  std::vector<std::string> calls() const;
  void set_pidfd(UniqueFd pidfd) { pidfd_ = std::move(pidfd); }

  const VmmHello& hello() const override { return hello_; }
  ProcessIdentity process() const override { return process_; }
  BorrowedFd pidfd() const override { return pidfd_.borrow(); }
  bool closed() const override;
  absl::StatusOr<VmDescription> Describe(const std::string& migration_id, bool hold,
                                         std::chrono::milliseconds timeout,
                                         Interrupt* interrupt) override;
  absl::StatusOr<VmDescription> Prepare(const PrepareRequest& request,
                                        std::chrono::milliseconds timeout,
                                        Interrupt* interrupt) override;
  // Not among calls(): nothing depends on it.
  absl::Status OfferTrace(const std::string& migration_id, BorrowedFd area) override {
    return script.offer_trace ? script.offer_trace(area) : VmmLink::OfferTrace(migration_id, area);
  }
  absl::Status ArmTarget(const std::string& migration_id, BorrowedFd source_pidfd,
                         std::chrono::milliseconds timeout, Interrupt* interrupt) override;
  absl::Status ArmSource(const ArmSourceRequest& request, std::chrono::milliseconds timeout,
                         Interrupt* interrupt) override;
  absl::Status Start(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::Status Cancel(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::Status Release(const std::string& migration_id, std::chrono::milliseconds timeout) override;
  absl::StatusOr<Probe> ProbeVm(const std::string& migration_id,
                                std::chrono::milliseconds timeout) override;
  absl::StatusOr<HandedIn> HandIn(const std::string& migration_id,
                                  std::chrono::milliseconds timeout) override;
  absl::StatusOr<LinkEvent> AwaitEvent(const std::string& migration_id,
                                       const std::vector<LinkEvent::Kind>& kinds,
                                       std::chrono::milliseconds timeout,
                                       Interrupt* interrupt) override;
  void Close() override;

 private:
  // Notes the call; an error if the link is closed.
  absl::Status Note(const char* what, const std::string& migration_id);

  const ProcessIdentity process_;
  const VmmHello hello_;
  UniqueFd pidfd_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  std::deque<LinkEvent> events_;
  std::vector<std::string> calls_;
};

}  // namespace rehome

#endif  // REHOME_DAEMON_TESTING_FAKE_VMM_LINK_H_
