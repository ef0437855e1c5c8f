// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/test_hooks.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "kvmglue/fd.h"

namespace rehome {
namespace {

struct HookName {
  HookPoint point;
  const char* name;
};
constexpr HookName kHookNames[] = {
    {HookPoint::kStart, "start"},
    {HookPoint::kDescribe, "describe"},
    {HookPoint::kArm, "arm"},
    {HookPoint::kPause, "pause"},
    {HookPoint::kSaved, "saved"},
    {HookPoint::kAnnounced, "announced"},
    {HookPoint::kResume, "resume"},
    {HookPoint::kHandedOver, "handed-over"},
    {HookPoint::kRelease, "release"},
    {HookPoint::kPrepare, "prepare"},
    {HookPoint::kPrepared, "prepared"},
    {HookPoint::kReady, "ready"},
    {HookPoint::kClaimed, "claimed"},
    {HookPoint::kMoving, "moving"},
    {HookPoint::kMoved, "moved"},
    {HookPoint::kRestored, "restored"},
    {HookPoint::kCommitted, "committed"},
    {HookPoint::kRunning, "running"},
    {HookPoint::kFirstRun, "first-run"},
    {HookPoint::kOwner, "owner"},
};

struct MisbehaviourName {
  Misbehaviour kind;
  const char* name;
};
constexpr MisbehaviourName kMisbehaviourNames[] = {
    {Misbehaviour::kVmType, "vm-type"},
    {Misbehaviour::kVcpuCount, "vcpu-count"},
    {Misbehaviour::kLayout, "layout"},
    {Misbehaviour::kOverlap, "overlap"},
    {Misbehaviour::kForeignInode, "foreign-inode"},
    {Misbehaviour::kMissingFd, "missing-fd"},
    {Misbehaviour::kExtraFd, "extra-fd"},
    {Misbehaviour::kWrongFd, "wrong-fd"},
    {Misbehaviour::kBinding, "binding"},
    {Misbehaviour::kEarlyRun, "early-run"},
};

}  // namespace

std::optional<HookPoint> HookPointFromName(std::string_view name) {
  for (const HookName& entry : kHookNames) {
    if (name == entry.name) return entry.point;
  }
  return std::nullopt;
}

std::vector<std::string> HookPointNames() {
  std::vector<std::string> names;
  for (const HookName& entry : kHookNames) names.push_back(entry.name);
  return names;
}

std::optional<Misbehaviour> MisbehaviourFromName(std::string_view name) {
  for (const MisbehaviourName& entry : kMisbehaviourNames) {
    if (name == entry.name) return entry.kind;
  }
  return std::nullopt;
}

std::vector<std::string> MisbehaviourNames() {
  std::vector<std::string> names;
  for (const MisbehaviourName& entry : kMisbehaviourNames) names.push_back(entry.name);
  return names;
}

void TestHooks::Reach(HookPoint point) const {
  if (std::find(meet_at.begin(), meet_at.end(), point) != meet_at.end()) Meet(point);
  if (point != die_at && point != hang_at && point != stop_at) return;
  if (!IsMyTurn()) return;
  if (point == die_at) Die();
  if (point == hang_at) Hang();
  // Not kill(): that could stop another thread first and let this one run on.
  if (point == stop_at) raise(SIGSTOP);
}

bool TestHooks::IsMyTurn() const {
  if (once_file.empty()) return true;
  return UniqueFd(open(once_file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)).valid();
}

void TestHooks::Die() {
  kill(getpid(), SIGKILL);
  Hang();
}

void TestHooks::Hang() {
  for (;;) pause();
}

// Other threads of this process may be kicked out of KVM_RUN by signals meanwhile: EINTR is no end.
void TestHooks::Meet(HookPoint point) const {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  meet_socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const UniqueFd peer(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int fd = peer.borrow().raw();
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return;
  std::string line;
  for (const HookName& entry : kHookNames) {
    if (entry.point == point) line = std::string(entry.name) + "\n";
  }
  if (send(fd, line.data(), line.size(), MSG_NOSIGNAL) < 0) return;
  char answer;
  while (recv(fd, &answer, 1, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace rehome
