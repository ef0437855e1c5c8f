// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/fake_vmm_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

// How often a waiting call looks at its interrupt: a condition variable cannot wait for an eventfd.
constexpr std::chrono::milliseconds kInterruptPoll{1};

absl::Status NotScripted() {
  return MakeStatus(absl::StatusCode::kUnimplemented, "NOT_SCRIPTED",
                    "the test has no answer for this call");
}

template <typename Function, typename... Args>
auto Answer(const Function& function, Args&&... args) -> decltype(function(args...)) {
  if (function == nullptr) return NotScripted();
  return function(std::forward<Args>(args)...);
}

}  // namespace

absl::Status FakeVmmLink::Note(const char* what, const std::string& migration_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  calls_.push_back(absl::StrCat(what, " ", migration_id));
  if (!closed_) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kUnavailable, "AGENT_GONE", "the link is closed");
}

void FakeVmmLink::Send(LinkEvent event) {
  std::lock_guard<std::mutex> lock(mutex_);
  events_.push_back(std::move(event));
  changed_.notify_all();
}

std::vector<std::string> FakeVmmLink::calls() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return calls_;
}

bool FakeVmmLink::closed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return closed_;
}

absl::StatusOr<VmDescription> FakeVmmLink::Describe(const std::string& migration_id, bool hold,
                                                    std::chrono::milliseconds, Interrupt*) {
  absl::Status open = Note(hold ? "DESCRIBE_HOLD" : "DESCRIBE", migration_id);
  if (!open.ok()) return open;
  return Answer(script.describe, migration_id, hold);
}

absl::StatusOr<VmDescription> FakeVmmLink::Prepare(const PrepareRequest& request,
                                                   std::chrono::milliseconds, Interrupt*) {
  absl::Status open = Note("PREPARE", request.migration_id);
  if (!open.ok()) return open;
  return Answer(script.prepare, request);
}

absl::Status FakeVmmLink::ArmTarget(const std::string& migration_id, BorrowedFd,
                                    std::chrono::milliseconds, Interrupt*) {
  absl::Status open = Note("ARM_TARGET", migration_id);
  return open.ok() ? Answer(script.arm_target, migration_id) : open;
}

absl::Status FakeVmmLink::ArmSource(const ArmSourceRequest& request, std::chrono::milliseconds,
                                    Interrupt*) {
  absl::Status open = Note("ARM_SOURCE", request.migration_id);
  return open.ok() ? Answer(script.arm_source, request) : open;
}

absl::Status FakeVmmLink::Start(const std::string& migration_id, std::chrono::milliseconds) {
  absl::Status open = Note("START", migration_id);
  return open.ok() ? Answer(script.start, migration_id) : open;
}

absl::Status FakeVmmLink::Cancel(const std::string& migration_id, std::chrono::milliseconds) {
  absl::Status open = Note("CANCEL", migration_id);
  return open.ok() ? Answer(script.cancel, migration_id) : open;
}

absl::Status FakeVmmLink::Release(const std::string& migration_id, std::chrono::milliseconds) {
  absl::Status open = Note("RELEASE", migration_id);
  return open.ok() ? Answer(script.release, migration_id) : open;
}

absl::StatusOr<VmmLink::Probe> FakeVmmLink::ProbeVm(const std::string& migration_id,
                                                    std::chrono::milliseconds) {
  absl::Status open = Note("PROBE", migration_id);
  if (!open.ok()) return open;
  return Answer(script.probe, migration_id);
}

absl::StatusOr<HandedIn> FakeVmmLink::HandIn(const std::string& migration_id,
                                             std::chrono::milliseconds) {
  absl::Status open = Note("HAND_IN", migration_id);
  if (!open.ok()) return open;
  return Answer(script.hand_in, migration_id);
}

absl::StatusOr<LinkEvent> FakeVmmLink::AwaitEvent(const std::string& migration_id,
                                                  const std::vector<LinkEvent::Kind>& kinds,
                                                  std::chrono::milliseconds timeout,
                                                  Interrupt* interrupt) {
  if (const absl::Status status = script.await_event ? script.await_event() : absl::OkStatus();
      !status.ok()) {
    return status;
  }
  const auto wanted = [&](const LinkEvent& event) {
    // GUEST_STOPPED belongs to no migration and interests every one.
    return (event.migration_id == migration_id || event.migration_id.empty()) &&
           std::find(kinds.begin(), kinds.end(), event.kind) != kinds.end();
  };
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const auto found = std::find_if(events_.begin(), events_.end(), wanted);
    if (found != events_.end()) {
      LinkEvent event = *found;
      events_.erase(found);
      return event;
    }
    if (closed_) return LinkEvent{LinkEvent::Kind::kClosed, "", "closed"};
    if (interrupt != nullptr && interrupt->raised()) {
      return MakeStatus(absl::StatusCode::kCancelled, "INTERRUPTED", "interrupted");
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return MakeStatus(absl::StatusCode::kDeadlineExceeded, "AGENT_TIMEOUT", "no such event");
    }
    changed_.wait_for(lock, kInterruptPoll);
  }
}

void FakeVmmLink::Close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace rehome
