// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/net.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::kRamGpa;
using testing::TestRam;

constexpr MacAddress kMac = {0x02, 0, 0, 0, 0, 1};
constexpr uint64_t kBuffer = kRamGpa + 0x1000;

class NetTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, GetParam() | SOCK_CLOEXEC, 0, pair), 0);
    network_ = UniqueFd(pair[1]);
    ASSERT_EQ(fcntl(pair[1], F_SETFL, O_NONBLOCK), 0);
    absl::StatusOr<std::unique_ptr<Backend>> backend = MakeNetBackend(UniqueFd(pair[0]), kMac);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }

  Served Receive(uint32_t room = 2048) {
    Chain chain;
    chain.writable = {{kBuffer, room / 2}, {kBuffer + room / 2, room - room / 2}};
    return backend_->Serve(kReceiveQueue, chain, 0, ram_.memory());
  }
  Served Transmit(const std::string& frame) {
    std::string message(kNetHeaderBytes, '\0');
    message += frame;
    ram_.memory().Write(kBuffer, std::as_bytes(std::span(message)));
    Chain chain;
    chain.readable = {{kBuffer, static_cast<uint32_t>(message.size())}};
    return backend_->Serve(kTransmitQueue, chain, 0, ram_.memory());
  }
  void NetworkSends(const std::string& frame) {
    ASSERT_EQ(send(network_.borrow().raw(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
  }
  // "-" if there is none.
  std::string NetworkGets() {
    char frame[4096];
    const ssize_t bytes = recv(network_.borrow().raw(), frame, sizeof(frame), 0);
    return bytes < 0 ? "-" : std::string(frame, static_cast<size_t>(bytes));
  }

  TestRam ram_;
  UniqueFd network_;
  std::unique_ptr<Backend> backend_;
};

TEST_P(NetTest, ReceivesAFrameBehindAHeader) {
  NetworkSends("a frame");
  const Served served = Receive();
  EXPECT_EQ(served.result, ServeResult::kDone);
  EXPECT_EQ(served.written, kNetHeaderBytes + 7);
  std::string message(kNetHeaderBytes + 7, 'x');
  ram_.memory().Read(kBuffer, std::as_writable_bytes(std::span(message)));
  EXPECT_EQ(message, std::string("\0\0\0\0\0\0\0\0\0\0\1\0a frame", kNetHeaderBytes + 7));
}

TEST_P(NetTest, WaitsForAFrame) { EXPECT_EQ(Receive().result, ServeResult::kWaitReadable); }

TEST_P(NetTest, FramesThatDoNotFitAreDroppedAndTheNextOneComes) {
  NetworkSends(std::string(100, 'x'));
  NetworkSends("fits");
  EXPECT_EQ(Receive(kNetHeaderBytes + 99).written, kNetHeaderBytes + 4);
  EXPECT_EQ(Receive().result, ServeResult::kWaitReadable);
}

TEST_P(NetTest, SendsAFrameWithoutItsHeader) {
  EXPECT_EQ(Transmit("to the network").result, ServeResult::kDone);
  EXPECT_EQ(NetworkGets(), "to the network");
  EXPECT_EQ(NetworkGets(), "-");
}

TEST_P(NetTest, AFullNetworkIsWaitedForAndLosesNothing) {
  int sent = 0;
  while (Transmit(std::to_string(sent)).result == ServeResult::kDone) ASSERT_LT(++sent, 100'000);
  EXPECT_EQ(Transmit(std::to_string(sent)).result, ServeResult::kWaitWritable);
  EXPECT_EQ(NetworkGets(), "0");
  while (Transmit(std::to_string(sent)).result == ServeResult::kWaitWritable) {
    ASSERT_NE(NetworkGets(), "-");
  }
}

TEST_P(NetTest, ANetworkThatIsGoneTakesFramesAndGivesNone) {
  network_.Reset();
  EXPECT_EQ(Transmit("nowhere").result, ServeResult::kDone);
  // Not something to poll for in the case that poll() would always say yes.
  const ServeResult result = Receive().result;
  EXPECT_EQ(result, GetParam() == SOCK_SEQPACKET ? ServeResult::kIdle : ServeResult::kWaitReadable);
}

TEST_P(NetTest, WhatCannotBeABufferBreaksTheDevice) {
  EXPECT_EQ(Receive(kNetHeaderBytes).result, ServeResult::kBroken);
  Chain chain;
  chain.readable = {{kBuffer, 100}};
  EXPECT_EQ(backend_->Serve(kReceiveQueue, chain, 0, ram_.memory()).result, ServeResult::kBroken);
  chain.readable = {{kBuffer, kNetHeaderBytes - 1}};
  EXPECT_EQ(backend_->Serve(kTransmitQueue, chain, 0, ram_.memory()).result, ServeResult::kBroken);
  chain.readable = {{kBuffer, 100}};
  chain.writable = {{kBuffer, 100}};
  EXPECT_EQ(backend_->Serve(kTransmitQueue, chain, 0, ram_.memory()).result, ServeResult::kBroken);
}

TEST_P(NetTest, AFrameLongerThanAnyNetworkIsDropped) {
  Chain chain;
  chain.readable = {{kBuffer, static_cast<uint32_t>(kNetHeaderBytes + kMaxFrameBytes + 1)}};
  EXPECT_EQ(backend_->Serve(kTransmitQueue, chain, 0, ram_.memory()).result, ServeResult::kDone);
  EXPECT_EQ(NetworkGets(), "-");
}

INSTANTIATE_TEST_SUITE_P(Sockets, NetTest, ::testing::Values(SOCK_DGRAM, SOCK_SEQPACKET),
                         [](const auto& info) {
                           return info.param == SOCK_DGRAM ? "Datagram" : "SeqPacket";
                         });

TEST(NetBackendTest, RefusesWhatIsNoNetwork) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd other(pair[1]);
  EXPECT_EQ(ReasonOf(MakeNetBackend(UniqueFd(pair[0]), kMac).status()), "NET_FD_INVALID");
  ASSERT_EQ(pipe2(pair, O_CLOEXEC), 0);
  const UniqueFd end(pair[1]);
  EXPECT_EQ(ReasonOf(MakeNetBackend(UniqueFd(pair[0]), kMac).status()), "NET_FD_INVALID");
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd peer(pair[1]);
  constexpr MacAddress kGroup = {0x01, 0, 0x5e, 0, 0, 1};
  EXPECT_EQ(ReasonOf(MakeNetBackend(UniqueFd(pair[0]), kGroup).status()), "NET_FD_INVALID");
}

}  // namespace
}  // namespace rehome::virtio
