// SPDX-License-Identifier: Apache-2.0
#include "tests/harness/meeting_place.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace rehome::harness {
namespace {

// A VMM comes by at each of the places named to it.
constexpr int kBacklog = 4;
// Longer than the name of any place.
constexpr size_t kMaxLine = 64;

absl::Status AwaitReadable(BorrowedFd fd, std::chrono::milliseconds timeout) {
  pollfd entry{.fd = fd.raw(), .events = POLLIN, .revents = 0};
  if (poll(&entry, 1, static_cast<int>(timeout.count())) == 1) return absl::OkStatus();
  return absl::DeadlineExceededError("no VMM has come to the meeting place");
}

}  // namespace

absl::StatusOr<MeetingPlace> MeetingPlace::Open() {
  MeetingPlace place;
  place.directory_ = std::make_unique<TempDir>();
  place.listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  place.path().copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = place.listener_.borrow().raw();
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd, kBacklog) != 0) {
    return absl::ErrnoToStatus(errno, place.path());
  }
  return place;
}

bool MeetingPlace::SomebodyIsHere(std::chrono::milliseconds timeout) const {
  return AwaitReadable(listener_.borrow(), timeout).ok();
}

absl::StatusOr<MeetingPlace::Arrival> MeetingPlace::Await(std::chrono::milliseconds timeout) {
  if (absl::Status status = AwaitReadable(listener_.borrow(), timeout); !status.ok()) return status;
  guest_ = UniqueFd(accept4(listener_.borrow().raw(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!guest_) return absl::ErrnoToStatus(errno, "accept");
  ucred peer = {};
  socklen_t size = sizeof(peer);
  getsockopt(guest_.borrow().raw(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
  Arrival arrival = {.place = {}, .pid = peer.pid};
  for (char c = 0; arrival.place.size() < kMaxLine;) {
    if (absl::Status status = AwaitReadable(guest_.borrow(), timeout); !status.ok()) return status;
    if (recv(guest_.borrow().raw(), &c, 1, 0) != 1) return absl::UnavailableError("it went away");
    if (c == '\n') return arrival;
    arrival.place += c;
  }
  return absl::InternalError("not the name of a place: " + arrival.place);
}

void MeetingPlace::Release() {
  // The listener first, or the one that is let go could come back.
  listener_.Reset();
  guest_.Reset();
}

}  // namespace rehome::harness
