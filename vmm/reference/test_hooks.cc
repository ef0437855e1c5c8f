// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/test_hooks.h"

#include <unistd.h>

#include <csignal>

namespace rehome {
namespace {

struct HookName {
  HookPoint point;
  const char* name;
};
constexpr HookName kHookNames[] = {
    {HookPoint::kDescribe, "describe"}, {HookPoint::kArm, "arm"},
    {HookPoint::kPause, "pause"},       {HookPoint::kSaved, "saved"},
    {HookPoint::kResume, "resume"},     {HookPoint::kHandedOver, "handed-over"},
    {HookPoint::kRelease, "release"},   {HookPoint::kPrepare, "prepare"},
    {HookPoint::kClaimed, "claimed"},   {HookPoint::kMoved, "moved"},
    {HookPoint::kRestored, "restored"}, {HookPoint::kCommitted, "committed"},
    {HookPoint::kRunning, "running"},   {HookPoint::kFirstRun, "first-run"},
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

void TestHooks::Die() {
  kill(getpid(), SIGKILL);
  Hang();
}

void TestHooks::Hang() {
  for (;;) pause();
}

}  // namespace rehome
