// SPDX-License-Identifier: Apache-2.0
#include "daemon/gone_link.h"

#include "absl/strings/str_cat.h"
#include "daemon/reasons.h"
#include "kvmglue/status_reason.h"

namespace rehome {
namespace {

using std::chrono::milliseconds;

class GoneLink final : public VmmLink {
 public:
  explicit GoneLink(const ProcessIdentity& process) : process_(process) {}

  const VmmHello& hello() const override { return hello_; }
  ProcessIdentity process() const override { return process_; }
  BorrowedFd pidfd() const override { return BorrowedFd(); }
  bool closed() const override { return true; }
  absl::StatusOr<VmDescription> Describe(const std::string&, bool, milliseconds,
                                         Interrupt*) override {
    return Gone();
  }
  absl::StatusOr<VmDescription> Prepare(const PrepareRequest&, milliseconds, Interrupt*) override {
    return Gone();
  }
  absl::Status ArmTarget(const std::string&, BorrowedFd, milliseconds, Interrupt*) override {
    return Gone();
  }
  absl::Status ArmSource(const ArmSourceRequest&, milliseconds, Interrupt*) override {
    return Gone();
  }
  absl::Status Start(const std::string&, milliseconds) override { return Gone(); }
  absl::Status Cancel(const std::string&, milliseconds) override { return Gone(); }
  absl::Status Release(const std::string&, milliseconds) override { return Gone(); }
  absl::StatusOr<Probe> ProbeVm(const std::string&, milliseconds) override { return Gone(); }
  absl::StatusOr<HandedIn> HandIn(const std::string&, milliseconds) override { return Gone(); }
  absl::StatusOr<LinkEvent> AwaitEvent(const std::string&, const std::vector<LinkEvent::Kind>&,
                                       milliseconds, Interrupt*) override {
    return LinkEvent{};  // kClosed
  }
  void Close() override {}

 private:
  absl::Status Gone() const {
    return MakeStatus(absl::StatusCode::kUnavailable, reason::kAgentGone,
                      absl::StrCat("process ", process_.pid, " is not connected"));
  }

  const ProcessIdentity process_;
  const VmmHello hello_;
};

}  // namespace

std::shared_ptr<VmmLink> NewGoneLink(const ProcessIdentity& process) {
  return std::make_shared<GoneLink>(process);
}

}  // namespace rehome
