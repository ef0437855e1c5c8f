// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/options.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "kvmglue/fd.h"
#include "vmm/reference/meeting.h"

namespace rehome {
namespace {

ParsedOptions Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "rehome-vmm");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data(), "rehome-vmm 9.9");
}

TEST(OptionsTest, AnOwnerNeedsANameAndGetsDefaults) {
  const ParsedOptions parsed = Parse({"--vm-id", "demo"});
  ASSERT_FALSE(parsed.exit_now) << parsed.text;
  EXPECT_FALSE(parsed.options.target);
  EXPECT_EQ(parsed.options.kernel, KernelKind::kKvm);
  EXPECT_EQ(parsed.options.guest.vm_id, "demo");
  EXPECT_EQ(parsed.options.guest.vm_type, VmType::kDefault);
  EXPECT_EQ(parsed.options.guest.memory_kind, MemoryKind::kAuto);
  EXPECT_EQ(parsed.options.link_ioctl, 0xd6u);
}

TEST(OptionsTest, EveryOptionArrives) {
  const ParsedOptions parsed = Parse({"--vm-id=a",
                                      "--vm-type=sw-protected",
                                      "--kernel=sim",
                                      "--memory=96",
                                      "--memory-kind=memfd",
                                      "--memories=3",
                                      "--vcpus=4",
                                      "--console=/tmp/c",
                                      "--agent-socket=/tmp/a",
                                      "--heartbeat-ms=7",
                                      "--step-ns=8",
                                      "--working-set-pages=9",
                                      "--seed=10",
                                      "--faults=x",
                                      "--link-ioctl=0xd5",
                                      "--die-at=saved",
                                      "--hang-at=first-run",
                                      "--stop-at=start",
                                      "--meet-at=claimed",
                                      "--meet-at=owner",
                                      "--meet-socket=/tmp/m",
                                      "--populate=11",
                                      "--spin-us=12",
                                      "--check-on-exit"});
  ASSERT_FALSE(parsed.exit_now) << parsed.text;
  const Options& options = parsed.options;
  EXPECT_EQ(options.kernel, KernelKind::kSim);
  EXPECT_EQ(options.agent_socket, "/tmp/a");
  EXPECT_EQ(options.faults, "x");
  EXPECT_EQ(options.link_ioctl, 0xd5u);
  EXPECT_EQ(options.populate_mib, 11u);
  EXPECT_EQ(options.spin_us, 12u);
  EXPECT_TRUE(options.check_on_exit);
  EXPECT_EQ(options.hooks.die_at, HookPoint::kSaved);
  EXPECT_EQ(options.hooks.hang_at, HookPoint::kFirstRun);
  EXPECT_EQ(options.hooks.stop_at, HookPoint::kStart);
  EXPECT_EQ(options.hooks.meet_at,
            (std::vector<HookPoint>{HookPoint::kClaimed, HookPoint::kOwner}));
  EXPECT_EQ(options.hooks.meet_socket, "/tmp/m");
  EXPECT_EQ(options.guest.vm_type, VmType::kSwProtected);
  EXPECT_EQ(options.guest.memory_mib, 96u);
  EXPECT_EQ(options.guest.memory_kind, MemoryKind::kMemfd);
  EXPECT_EQ(options.guest.memories, 3u);
  EXPECT_EQ(options.guest.vcpus, 4u);
  EXPECT_EQ(options.guest.console, "/tmp/c");
  EXPECT_EQ(options.guest.heartbeat_ms, 7u);
  EXPECT_EQ(options.guest.step_ns, 8u);
  EXPECT_EQ(options.guest.working_set_pages, 9u);
  EXPECT_EQ(options.guest.seed, 10u);
}

TEST(OptionsTest, ALinuxGuestHasOptionsOfItsOwn) {
  const ParsedOptions parsed =
      Parse({"--vm-id=a", "--linux=k", "--initramfs=i", "--cmdline=quiet panic=-1", "--disk=d1",
             "--disk=d2,read-only", "--tap=t", "--memory-kind=memfd"});
  ASSERT_FALSE(parsed.exit_now) << parsed.text;
  const GuestOptions& guest = parsed.options.guest;
  EXPECT_TRUE(guest.is_linux());
  EXPECT_EQ(guest.linux_image, "k");
  EXPECT_EQ(guest.initramfs, "i");
  EXPECT_EQ(guest.cmdline, "quiet panic=-1");
  EXPECT_EQ(guest.disks,
            (std::vector<DiskOption>{{.path = "d1"}, {.path = "d2", .read_only = true}}));
  EXPECT_EQ(guest.taps, std::vector<std::string>{"t"});
  EXPECT_EQ(Parse({"--vm-id=a", "--linux=k"}).options.guest.cmdline, kDefaultCmdline);
  EXPECT_FALSE(Parse({"--vm-id=a"}).options.guest.is_linux());
}

TEST(OptionsTest, TheKindOfMemoryThatIsTheDefaultCanBeSaid) {
  const ParsedOptions parsed = Parse({"--vm-id=a", "--memory-kind=auto"});
  ASSERT_FALSE(parsed.exit_now) << parsed.text;
  EXPECT_EQ(parsed.options.guest.memory_kind, MemoryKind::kAuto);
}

TEST(OptionsTest, StepsOfTheBlackoutCanBeLeftOut) {
  EXPECT_FALSE(Parse({"--vm-id=a"}).options.hooks.without.Has(BlackoutStep::kLearn));
  for (const std::string& name : BlackoutStepNames()) {
    const ParsedOptions parsed = Parse({"--target", "--blackout-without", name.c_str()});
    ASSERT_FALSE(parsed.exit_now) << parsed.text;
    for (const std::string& other : BlackoutStepNames()) {
      EXPECT_EQ(parsed.options.hooks.without.Has(*BlackoutStepFromName(other)), other == name);
    }
  }
  EXPECT_EQ(Parse({"--target", "--blackout-without=fence"}).exit_code, kUsageExitCode);
}

TEST(OptionsTest, ATargetNeedsNoNameAndMayMisbehave) {
  const ParsedOptions parsed = Parse({"--target", "--misbehave=overlap"});
  ASSERT_FALSE(parsed.exit_now) << parsed.text;
  EXPECT_TRUE(parsed.options.target);
  EXPECT_EQ(parsed.options.hooks.misbehave, Misbehaviour::kOverlap);
}

TEST(OptionsTest, VersionIsPrinted) {
  const ParsedOptions parsed = Parse({"--version"});
  EXPECT_TRUE(parsed.exit_now);
  EXPECT_EQ(parsed.exit_code, 0);
  EXPECT_NE(parsed.text.find("rehome-vmm 9.9"), std::string::npos);
}

TEST(OptionsTest, WhatMakesNoSenseIsRefusedByName) {
  const struct {
    std::vector<const char*> arguments;
    const char* named;
  } kCases[] = {
      {{}, "--vm-id"},
      {{"--vm-id=a", "--nonsense"}, "--nonsense"},
      {{"--vm-id=a", "--vm-type=amiga"}, "--vm-type"},
      {{"--vm-id=a", "--vcpus=0"}, "--vcpus"},
      {{"--vm-id=a", "--vcpus=65"}, "--vcpus"},
      {{"--vm-id=a", "--memory=4"}, "--memory"},
      {{"--vm-id=a", "--memory=many"}, "--memory"},
      {{"--vm-id=a", "--memory=64", "--memories=3"}, "--memories"},
      {{"--vm-id=a", "--memories=17"}, "--memories"},
      {{"--vm-id=a", "--memory=16", "--memories=16"}, "--memories"},
      {{"--vm-id=a", "--memory-kind=paper"}, "--memory-kind"},
      {{"--vm-id=a", "--die-at=home"}, "--die-at"},
      {{"--vm-id=a", "--meet-at=home", "--meet-socket=/tmp/m"}, "--meet-at"},
      {{"--vm-id=a", "--meet-at=claimed"}, "--meet-socket"},
      {{"--vm-id=a", "--misbehave=overlap"}, "--misbehave"},
      {{"--vm-id=a", "--link-ioctl=0x100"}, "--link-ioctl"},
      {{"--vm-id=a", "--initramfs=i"}, "--linux"},
      {{"--vm-id=a", "--cmdline=c"}, "--linux"},
      {{"--vm-id=a", "--disk=d"}, "--linux"},
      {{"--vm-id=a", "--tap=t"}, "--linux"},
      {{"--vm-id=a", "--linux=k", "--seed=1"}, "--seed"},
      {{"--vm-id=a", "--linux=k", "--heartbeat-ms=1"}, "--heartbeat-ms"},
      {{"--vm-id=a", "--linux=k", "--check-on-exit"}, "--check-on-exit"},
      {{"--vm-id=a", "--linux=k", "--kernel=sim"}, "--kernel"},
      {{"--vm-id=a", "--linux=k", "--vm-type=sev"}, "--vm-type"},
      {{"--target", "--linux=k"}, "--linux"},
      {{"--vm-id=a", "--linux=k", "--disk=1", "--disk=2", "--disk=3", "--disk=4", "--tap=5",
        "--tap=6", "--tap=7", "--tap=8"},
       "--tap"},
  };
  for (const auto& test : kCases) {
    const ParsedOptions parsed = Parse(test.arguments);
    EXPECT_TRUE(parsed.exit_now) << test.named;
    EXPECT_EQ(parsed.exit_code, kUsageExitCode) << test.named;
    EXPECT_NE(parsed.text.find(test.named), std::string::npos) << parsed.text;
  }
}

TEST(TestHooksTest, EveryNameMeansSomething) {
  for (const std::string& name : HookPointNames()) EXPECT_TRUE(HookPointFromName(name)) << name;
  for (const std::string& name : MisbehaviourNames()) {
    EXPECT_TRUE(MisbehaviourFromName(name)) << name;
  }
  EXPECT_FALSE(HookPointFromName("nowhere"));
  EXPECT_FALSE(MisbehaviourFromName("nothing"));
}

TEST(TestHooksDeathTest, DiesWhereToldAndNowhereElse) {
  TestHooks hooks;
  hooks.Reach(HookPoint::kSaved);
  hooks.die_at = HookPoint::kSaved;
  hooks.Reach(HookPoint::kClaimed);
  EXPECT_EXIT(hooks.Reach(HookPoint::kSaved), testing::KilledBySignal(SIGKILL), "");
}

TEST(TestHooksTest, AStoppedProcessStopsWhereToldUntilItIsContinued) {
  const pid_t child = fork();
  if (child == 0) {
    TestHooks hooks;
    hooks.stop_at = HookPoint::kSaved;
    hooks.Reach(HookPoint::kClaimed);
    hooks.Reach(HookPoint::kSaved);
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_EQ(WSTOPSIG(status), SIGSTOP);
  kill(child, SIGCONT);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

// A process that passes two places, and is at its end with 7.
pid_t PassPlaces(const std::string& meet_socket) {
  const pid_t child = fork();
  if (child != 0) return child;
  TestHooks hooks;
  hooks.meet_at = {HookPoint::kSaved, HookPoint::kAnnounced};
  hooks.meet_socket = meet_socket;
  hooks.Reach(HookPoint::kPause);
  hooks.Reach(HookPoint::kSaved);
  hooks.Reach(HookPoint::kAnnounced);
  _exit(7);
}

TEST(TestHooksTest, WhoMeetsWaitsUntilItIsSentOnOrLeftAlone) {
  Meeting meeting;
  const pid_t child = PassPlaces(meeting.path());
  {
    const UniqueFd peer = meeting.Await("saved");
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, WNOHANG), 0);
    EXPECT_EQ(send(peer.borrow().raw(), "x", 1, 0), 1);
    static_cast<void>(meeting.Await("announced"));  // closed: goes on too
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(TestHooksTest, WhereNobodyListensNobodyWaits) {
  Meeting meeting;
  meeting.Close();
  const pid_t child = PassPlaces(meeting.path());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

}  // namespace
}  // namespace rehome
