// SPDX-License-Identifier: Apache-2.0
//
// The guest's parts as far as they can be tried outside a guest.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "bench/linux_guest/init/clock_watch.h"
#include "bench/linux_guest/init/control_server.h"
#include "bench/linux_guest/init/echo_server.h"
#include "bench/linux_guest/init/kmsg_watch.h"
#include "bench/linux_guest/pattern.h"
#include "bench/linux_guest/workload_abi.h"
#include "gtest/gtest.h"

namespace rehome::linux_guest {
namespace {

TEST(AlarmTest, KnowsWhatTheKernelComplainsOf) {
  for (const char* line : {
           "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [init:1]",
           "rcu: INFO: rcu_sched self-detected stall on CPU",
           "I/O error, dev vda, sector 8 op 0x1:(WRITE)",
           "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable "
           "because",
           "INFO: task init:1 blocked for more than 60 seconds.",
           "WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:1",
           "BUG: kernel NULL pointer dereference, address: 0",
           "Oops: 0002 [#1] SMP",
           "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
       }) {
    EXPECT_TRUE(IsAlarm(line)) << line;
  }
  for (const char* line : {
           "clocksource: Switched to clocksource kvm-clock",
           "virtio_blk virtio0: [vda] 131072 512-byte logical blocks",
           "random: crng init done",
           "calibrate_delay_direct() failed to get a good estimate for loops_per_jiffy.",
           "Kernel command line: console=ttyS0 panic=-1 installed",
       }) {
    EXPECT_FALSE(IsAlarm(line)) << line;
  }
}

TEST(HighWaterTest, FindsAClockThatGoesBack) {
  HighWater clock;
  clock.See(clock.latest(), 100);
  clock.See(clock.latest(), 100);
  clock.See(clock.latest(), 250);
  EXPECT_EQ(clock.backwards(), 0u);
  clock.See(clock.latest(), 240);
  clock.See(clock.latest(), 249);
  EXPECT_EQ(clock.backwards(), 2u);
  EXPECT_EQ(clock.worst_ns(), 10u);
  EXPECT_EQ(clock.latest(), 250u);
}

TEST(StatsTest, ReadsTheKernelsTexts) {
  const std::string disks =
      " 253       1 vda1 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n"
      " 253       0 vda 91 2 3 4 95 6 7 8 9 10 11 12 13 14 15 916 17\n";
  const std::optional<DiskStats> stats = ParseDiskStats(disks, "vda");
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->reads, 91u);
  EXPECT_EQ(stats->writes, 95u);
  EXPECT_EQ(stats->flushes, 916u);
  EXPECT_FALSE(ParseDiskStats(disks, "vdb").has_value());
  EXPECT_FALSE(ParseDiskStats("253 0 vda 1 2 3\n", "vda").has_value());

  const TcpStats tcp = ParseTcpStats(
      "Icmp: A B\nIcmp: 1 2\n"
      "Tcp: ActiveOpens EstabResets RetransSegs OutRsts\nTcp: 9 1 3 2\n");
  EXPECT_EQ(tcp.resets_seen, 1u);
  EXPECT_EQ(tcp.resets_sent, 2u);
  EXPECT_EQ(tcp.retransmits, 3u);
}

class EchoServerTest : public ::testing::Test {
 protected:
  EchoServerTest() {
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets_), 0);
    server_ = std::thread([this] {
      Connection connection{UniqueFd(sockets_[1])};
      ServeEcho(connection, counters_);
    });
  }
  ~EchoServerTest() override {
    if (server_.joinable()) End();
    close(sockets_[0]);
  }

  void End() {
    shutdown(sockets_[0], SHUT_WR);
    server_.join();
  }

  static std::vector<std::byte> Frame(uint64_t sequence) {
    std::vector<std::byte> frame(sizeof(FrameHeader) + 100 + sequence);
    const std::span<std::byte> payload = std::span(frame).subspan(sizeof(FrameHeader));
    FillPattern(sequence, payload);
    const FrameHeader header = {.magic = kFrameMagic,
                                .length = static_cast<uint32_t>(payload.size()),
                                .sequence = sequence,
                                .checksum = Checksum(payload)};
    memcpy(frame.data(), &header, sizeof(header));
    return frame;
  }

  void Send(std::span<const std::byte> bytes) {
    ASSERT_EQ(send(sockets_[0], bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  Counters counters_;
  int sockets_[2] = {-1, -1};
  std::thread server_;
};

TEST_F(EchoServerTest, SendsBackWhatIsWhole) {
  size_t bytes = 0;
  for (uint64_t i = 0; i < 3; ++i) {
    const std::vector<std::byte> frame = Frame(i);
    Send(frame);
    std::vector<std::byte> back(frame.size());
    ASSERT_EQ(recv(sockets_[0], back.data(), back.size(), MSG_WAITALL),
              static_cast<ssize_t>(back.size()));
    EXPECT_EQ(back, frame);
    bytes += frame.size();
  }
  End();
  EXPECT_EQ(counters_.echo_frames, 3u);
  EXPECT_EQ(counters_.echo_bytes, bytes);
  EXPECT_EQ(counters_.echo_ended, 1u);
  EXPECT_EQ(counters_.echo_faults.count(), 0u);
}

TEST_F(EchoServerTest, FindsAFrameThatCameTwice) {
  Send(Frame(0));
  Send(Frame(0));
  End();
  EXPECT_EQ(counters_.echo_frames, 1u);
  EXPECT_EQ(counters_.echo_faults.first(), "frame 0 instead of 1");
}

TEST_F(EchoServerTest, FindsALostByte) {
  std::vector<std::byte> frame = Frame(0);
  frame.erase(frame.begin() + 50);
  Send(frame);
  Send(Frame(1));
  End();
  EXPECT_EQ(counters_.echo_faults.first(), "frame 0 is damaged");
}

TEST_F(EchoServerTest, FindsAStreamThatEndsTooSoon) {
  const std::vector<std::byte> frame = Frame(0);
  Send(std::span(frame).first(40));
  End();
  EXPECT_EQ(counters_.echo_ended, 0u);
  EXPECT_EQ(counters_.echo_faults.count(), 1u);
}

}  // namespace
}  // namespace rehome::linux_guest
