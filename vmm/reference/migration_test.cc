// SPDX-License-Identifier: Apache-2.0
//
// A real guest goes through real VMM processes: on the kernel that the build names
// (REHOME_TEST_KERNEL), with every strategy that this kernel has.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "vmm/reference/meeting.h"
#include "vmm/reference/movement_rows.h"
#include "vmm/reference/vmm_harness.h"

namespace rehome {

namespace {

const std::string kKernel = REHOME_TEST_KERNEL;

using Row = MovementRow;

std::vector<Row> Rows() {
  const std::vector<Row> kStaying = {
      {"MapGuestMemfd", {}, REHOME_STRATEGY_MAP, REHOME_FENCE_AFTER_RESUME, true},
      {"MapMemfd", {"--memory-kind=memfd"}, REHOME_STRATEGY_MAP, REHOME_FENCE_AFTER_RESUME, true},
      {"MapFencedFirst", {}, REHOME_STRATEGY_MAP, REHOME_FENCE_BEFORE_RESUME, true},
      {"MapTwoVcpus", {"--vcpus=2"}, REHOME_STRATEGY_MAP, REHOME_FENCE_AFTER_RESUME, true},
      {"MapFourVcpusThreeFiles",
       {"--vcpus=4", "--memories=3", "--memory=96"},
       REHOME_STRATEGY_MAP,
       REHOME_FENCE_AFTER_RESUME,
       true},
      {"MapAcrossTheHole",
       {"--memory=4096", "--vcpus=2", "--working-set-pages=64"},
       REHOME_STRATEGY_MAP,
       REHOME_FENCE_AFTER_RESUME,
       true},
      {"LinkDefault", {"--vcpus=2"}, REHOME_STRATEGY_LINK, REHOME_FENCE_AFTER_RESUME, false},
  };
  return WithMovingRows(kStaying, REHOME_TEST_KERNEL);
}

// Behind the loader's 2 MiB and the two pages of the first vCPU's ledger (guest/step.h).
constexpr uint64_t kFirstWorkPage = (2 << 20) + 2 * 4096;

// A user at the console.
class Terminal {
 public:
  explicit Terminal(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    EXPECT_EQ(connect(fd_.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
              0);
  }
  void Type(const std::string& text) {
    EXPECT_EQ(send(fd_.borrow().raw(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // The next whole line, without its end.
  std::string ReadLine() {
    while (text_.find('\n') == std::string::npos) {
      pollfd poller = {fd_.borrow().raw(), POLLIN, 0};
      char buffer[4096];
      if (poll(&poller, 1, kHarnessPatienceMs) != 1) return "(nothing came)";
      const ssize_t count = recv(poller.fd, buffer, sizeof(buffer), 0);
      if (count <= 0) return "(the connection ended)";
      text_.append(buffer, count);
    }
    std::string line = text_.substr(0, text_.find('\n'));
    text_.erase(0, line.size() + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
  }
  // The number of the next heartbeat, which must be the whole line; 0 if it is not.
  uint64_t ReadHeartbeat() {
    const std::string line = ReadLine();
    unsigned long long number = 0, steps = 0, errors = 1;
    int end = 0;
    if (std::sscanf(line.c_str(), "heartbeat %llu steps %llu errors %llu%n", &number, &steps,
                    &errors, &end) != 3 ||
        end != static_cast<int>(line.size()) || errors != 0) {
      ADD_FAILURE() << line;
      return 0;
    }
    return number;
  }

 private:
  UniqueFd fd_;
  std::string text_;
};

class OnKernel : public VmmTest {
 protected:
  OnKernel() : VmmTest(kKernel) {}
};

class MigrationTest : public OnKernel, public testing::WithParamInterface<Row> {};
class MigrationPlacesTest : public OnKernel {};
class MigrationConsoleTest : public OnKernel {};
class MigrationRollbackTest : public OnKernel {};
class MigrationRefusalTest : public OnKernel {};
class OwnerTest : public OnKernel {};

TEST_P(MigrationTest, AGuestMovesSeveralTimesAndIsIntact) {
  VmmHarness harness(kKernel, 1, GetParam().options);
  Hop hop{.strategy = GetParam().strategy, .fence_policy = GetParam().fence_policy};
  for (const int version : {1, 2, 2, 1}) {
    hop.version = version;
    ASSERT_TRUE(harness.Move(hop));
    const auto phases = harness.phases();
    EXPECT_TRUE(std::is_sorted(phases.begin(), phases.end()));
    EXPECT_NE(phases[0], 0u);
  }
  EXPECT_EQ(harness.EndGuest(), 0);
}

INSTANTIATE_TEST_SUITE_P(Strategies, MigrationTest, testing::ValuesIn(Rows()),
                         [](const auto& info) { return std::string(info.param.name); });

// The harness of a kill matrix can be there at each of them.
TEST_F(MigrationPlacesTest, EverySidePassesItsPlacesInOrder) {
  const bool moves = kKernel != "kvm";
  const std::vector<std::string> source_places = {"start", "describe",  "arm",         "pause",
                                                  "saved", "announced", "handed-over", "release"};
  std::vector<std::string> target_places = {"start", "prepare", "prepared",
                                            "arm",   "ready",   "claimed"};
  const std::vector<std::string> middle =
      moves ? std::vector<std::string>{"moving", "moved", "committed", "restored"}
            : std::vector<std::string>{"restored", "committed"};
  target_places.insert(target_places.end(), middle.begin(), middle.end());
  target_places.insert(target_places.end(), {"running", "first-run", "owner"});

  Meeting source_meeting, target_meeting;
  const auto attend = [](Meeting& meeting, const std::vector<std::string>& places) {
    for (const std::string& place : places) static_cast<void>(meeting.Await(place));
  };
  std::thread sources(attend, std::ref(source_meeting), source_places);
  std::thread targets(attend, std::ref(target_meeting), target_places);
  std::vector<std::string> options = source_meeting.Options(source_places);
  if (moves) options.push_back("--vm-type=sw-protected");
  Hop hop;
  if (moves) {
    hop.strategy = REHOME_STRATEGY_LINK_MOVE;
    hop.fence_policy = REHOME_FENCE_KERNEL;
  }
  hop.target_options = target_meeting.Options(target_places);
  VmmHarness harness(kKernel, 1, options);
  EXPECT_TRUE(harness.Move(hop));
  sources.join();
  targets.join();
  EXPECT_EQ(harness.EndGuest(), 0);
}

TEST_F(MigrationConsoleTest, AnAttachedUserLosesNoCharacterInEitherDirection) {
  VmmHarness harness(kKernel, 1, {"--heartbeat-ms=10"});
  Terminal user(harness.console_path());
  user.ReadLine();  // attached in the middle of one
  uint64_t last = user.ReadHeartbeat();
  for (int hop = 0; hop < 3; ++hop) {
    ASSERT_TRUE(harness.Move({}));
    // Read all that was said up to now: every heartbeat, each once.
    for (int i = 0; i < 10; ++i) {
      const uint64_t next = user.ReadHeartbeat();
      ASSERT_EQ(next, last + 1);
      last = next;
    }
  }
  user.Type("are you there?");
  std::string echo;
  while (echo.find("are you there?") == std::string::npos && echo.find('(') == std::string::npos) {
    echo += user.ReadLine();
  }
  EXPECT_EQ(harness.EndGuest(), 0);
}

// What version 2 has received, and what waits for it, has to fit the one byte of version 1.
class TypedDuringAMigration : public OnKernel,
                              public testing::WithParamInterface<std::pair<int, int>> {};

INSTANTIATE_TEST_SUITE_P(Versions, TypedDuringAMigration,
                         testing::Values(std::pair(1, 2), std::pair(2, 1)), [](const auto& info) {
                           return "From" + std::to_string(info.param.first) + "To" +
                                  std::to_string(info.param.second);
                         });

TEST_P(TypedDuringAMigration, Arrives) {
  const auto [from, to] = GetParam();
  VmmHarness harness(kKernel, from, {"--heartbeat-ms=10"});
  Terminal user(harness.console_path());
  user.ReadLine();
  ASSERT_TRUE(harness.Launch({.version = to}));
  ASSERT_EQ(harness.Prepare(), 0u);
  user.Type("typed between two VMMs");
  ASSERT_TRUE(harness.Arm() && harness.Start() && harness.AwaitVerdict(REHOME_VERDICT_RUNNING));
  ASSERT_TRUE(harness.Finish());
  std::string text;
  while (text.find("VMMs") == std::string::npos && text.find('(') == std::string::npos) {
    text += user.ReadLine();
  }
  // The echo stands in front of heartbeats, in pieces as the guest looked: put together it is
  // whole.
  std::string typed;
  for (size_t at = 0; at < text.size();) {
    if (text.compare(at, 10, "heartbeat ") == 0) {
      at = std::min(text.find("errors 0", at), text.size() - 8) + 8;
    } else {
      typed += text[at++];
    }
  }
  EXPECT_EQ(typed, "typed between two VMMs");
}

TEST_F(MigrationConsoleTest, AUserWhoAttachesDuringAMigrationIsServedAfterIt) {
  VmmHarness harness(kKernel, 1, {"--heartbeat-ms=10"});
  ASSERT_TRUE(harness.Launch({}));
  ASSERT_EQ(harness.Prepare(), 0u);
  Terminal user(harness.console_path());
  ASSERT_TRUE(harness.Arm() && harness.Start() && harness.AwaitVerdict(REHOME_VERDICT_RUNNING));
  ASSERT_TRUE(harness.Finish());
  user.ReadLine();
  EXPECT_GT(user.ReadHeartbeat(), 0u);
}

TEST_F(MigrationConsoleTest, TheGuestSwitchesItselfOffAfterAMove) {
  VmmHarness harness(kKernel, 1, {"--heartbeat-ms=10"});
  ASSERT_TRUE(harness.Move({}));
  Terminal user(harness.console_path());
  user.Type("\x04");
  const auto event = harness.source().AwaitEvent(REHOME_EVENT_GUEST_STOPPED);
  EXPECT_TRUE(event.has_value());
  EXPECT_EQ(harness.source_process().AwaitExit(), 0);
}

// Moves the guest for real after a failed attempt: nothing of it may be left in the way.
void MoveAndEnd(VmmHarness& harness) {
  harness.ForgetTarget();
  ASSERT_TRUE(harness.Move({}));
  EXPECT_EQ(harness.EndGuest(), 0);
}

TEST_F(MigrationRollbackTest, ACancelledMigrationLeavesTheGuestRunningWhereItIs) {
  VmmHarness harness(kKernel, 1, {});
  ASSERT_TRUE(harness.Launch({}));
  ASSERT_EQ(harness.Prepare(), 0u);
  ASSERT_TRUE(harness.Arm());
  EXPECT_EQ(harness.target().Order(REHOME_MSG_CANCEL, harness.migration()), 0u);
  EXPECT_EQ(harness.target_process().AwaitExit(), 0);
  EXPECT_EQ(harness.source().Order(REHOME_MSG_CANCEL, harness.migration()), 0u);
  MoveAndEnd(harness);
}

TEST_F(MigrationRollbackTest, ATargetThatDiesWhileItPreparesIsForgotten) {
  VmmHarness harness(kKernel, 1, {});
  ASSERT_TRUE(harness.Launch({.target_options = {"--die-at=prepare"}}));
  EXPECT_EQ(harness.Prepare(), std::nullopt);
  EXPECT_EQ(harness.source().Order(REHOME_MSG_CANCEL, harness.migration()), 0u);
  MoveAndEnd(harness);
}

TEST_F(MigrationRollbackTest, ATargetThatDiesBeforeItRanTheGuestGivesItBack) {
  for (const char* place : {"claimed", "restored", "committed"}) {
    SCOPED_TRACE(place);
    VmmHarness harness(kKernel, 1, {});
    ASSERT_TRUE(harness.Launch({.target_options = {std::string("--die-at=") + place}}));
    ASSERT_EQ(harness.Prepare(), 0u);
    ASSERT_TRUE(harness.Arm() && harness.Start() && harness.AwaitRollback());
    MoveAndEnd(harness);
  }
}

TEST_F(MigrationRollbackTest, ATargetThatHangsIsKilledAndTheGuestGoesOn) {
  for (const char* place : {"claimed", "restored", "committed"}) {
    SCOPED_TRACE(place);
    VmmHarness harness(kKernel, 1, {});
    ASSERT_TRUE(harness.Launch({.target_options = {std::string("--hang-at=") + place},
                                .claim_timeout_ms = 500,
                                .resolve_timeout_ms = 500}));
    ASSERT_EQ(harness.Prepare(), 0u);
    ASSERT_TRUE(harness.Arm() && harness.Start());
    ASSERT_TRUE(harness.AwaitRollback());
    EXPECT_EQ(harness.EndGuest(), 0);
  }
}

TEST_F(MigrationRollbackTest, ASourceThatCannotBeSavedGoesOn) {
  // Loading the guest reads the LAPIC, too: 3 times on KVM, once on the simulated kernel.
  const std::string call = kKernel == "kvm" ? "4" : "2";
  VmmHarness harness(kKernel, 1, {"--faults=KVM_GET_LAPIC:" + call + ":EIO:once"});
  ASSERT_TRUE(harness.Launch({}));
  ASSERT_EQ(harness.Prepare(), 0u);
  ASSERT_TRUE(harness.Arm() && harness.Start() && harness.AwaitRollback());
  MoveAndEnd(harness);
}

TEST_F(MigrationRollbackTest, ATargetThatCannotRestoreGivesTheGuestBack) {
  VmmHarness harness(kKernel, 1, {});
  ASSERT_TRUE(
      harness.Launch({.target_options = {"--warm-ms=0", "--faults=KVM_SET_LAPIC:1:EINVAL:once"}}));
  ASSERT_EQ(harness.Prepare(), 0u);
  ASSERT_TRUE(harness.Arm() && harness.Start());
  const auto event = harness.target().AwaitEvent(REHOME_EVENT_TAKE_OVER_FAILED);
  ASSERT_TRUE(event.has_value());
  EXPECT_NE(std::string(event->text).find("VCPU_STATE"), std::string::npos) << event->text;
  ASSERT_TRUE(harness.AwaitRollback());
  MoveAndEnd(harness);
}

TEST_F(MigrationRefusalTest, AnOlderVmmRefusesANewerState) {
  VmmHarness harness(kKernel, 2, {});
  ASSERT_TRUE(harness.Launch({.version = 1, .state_format = 2}));
  EXPECT_EQ(harness.target_hello().state_format_read_max, 1u);
  EXPECT_EQ(harness.Prepare(), REHOME_REFUSED_STATE_FORMAT);
  EXPECT_NE(harness.target().refusal_text().find("rehome-vmm 1.0 reads 1 to 1"), std::string::npos)
      << harness.target().refusal_text();
}

// The older the version, the less there is to choose from.
TEST_F(MigrationRefusalTest, ASourceWritesNoFormatThatItDidNotOffer) {
  for (const int version : {1, 2}) {
    VmmHarness harness(kKernel, version, {});
    ASSERT_TRUE(harness.Launch({}));
    ASSERT_EQ(harness.Prepare(), 0u);
    const auto format = static_cast<uint32_t>(version) + 1;
    EXPECT_EQ(
        harness.source().ArmSource(harness.migration(), harness.description().layout_digest,
                                   harness.block_fd(), harness.target_process().pidfd(), format),
        REHOME_REFUSED_STATE_FORMAT);
    EXPECT_EQ(harness.source().Order(REHOME_MSG_CANCEL, harness.migration()), 0u);
    EXPECT_EQ(harness.EndGuest(), 0);
  }
}

TEST_F(MigrationRefusalTest, ALiarsAnswerShowsTheLie) {
  const struct {
    const char* kind;
    bool (*shows)(VmmHarness&);
  } kLies[] = {
      {"vm-type", [](VmmHarness& h) { return h.answer().vm_type != h.description().vm_type; }},
      {"vcpu-count",
       [](VmmHarness& h) { return h.answer().vcpu_count != h.description().vcpu_count; }},
      {"layout",
       [](VmmHarness& h) { return h.answer().layout_digest != h.description().layout_digest; }},
      {"overlap",
       [](VmmHarness& h) { return h.answer().slot_count == h.description().slot_count + 1; }},
      {"foreign-inode",
       [](VmmHarness& h) { return h.answer().slots[0].inode != h.description().slots[0].inode; }},
  };
  for (const auto& lie : kLies) {
    SCOPED_TRACE(lie.kind);
    VmmHarness harness(kKernel, 1, {});
    ASSERT_TRUE(harness.Launch({.target_options = {std::string("--misbehave=") + lie.kind}}));
    ASSERT_EQ(harness.Prepare(), 0u);
    EXPECT_TRUE(lie.shows(harness));
  }
}

TEST_F(OwnerTest, TheCheckFindsDamageInARunningGuest) {
  VmmHarness harness(kKernel, 1, {});
  ASSERT_TRUE(harness.Launch({}));
  // What the description gave us is the guest's memory: change one byte in a page that it works on.
  for (uint32_t i = 0; i < harness.description().fd_count; ++i) {
    const rehome_vm_fd& fd = harness.description().fds[i];
    if (fd.entry.role == REHOME_FD_MEMORY) {
      ASSERT_TRUE(FlipBit(fd.fd, kFirstWorkPage + 1));
    }
  }
  harness.source().Order(REHOME_MSG_CANCEL, harness.migration());
  EXPECT_EQ(harness.EndGuest(), 3);
}

}  // namespace
}  // namespace rehome
