// SPDX-License-Identifier: Apache-2.0
//
// The network device on a real tap: a frame from the host reaches the guest's buffer, and a frame
// of the guest reaches the host.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvmglue/tap.h"
#include "kvmglue/test_tap.h"
#include "vmm/reference/virtio/net.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::AwaitInterrupts;
using testing::kRamGpa;
using testing::TestDriver;
using testing::TestQueue;
using testing::TestRam;

constexpr uint16_t kOurType = 0x88b5;  // IEEE 802: for local experiments
constexpr uint64_t kReceiveBuffers = kRamGpa + 0x20000;
constexpr uint64_t kTransmitBuffer = kRamGpa + 0x80000;
constexpr uint32_t kBufferBytes = 2048;
constexpr uint16_t kQueueSize = 32;

std::string Frame(const std::string& text) {
  std::string frame("\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x09\x88\xb5", 14);
  frame += text;
  frame.resize(60);
  return frame;
}

class NetTapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = absl::StrCat("rhn", getpid() % 1'000'000);
    absl::StatusOr<std::unique_ptr<rehome::testing::TestTap>> made =
        rehome::testing::TestTap::Make(name);
    if (!made.ok()) GTEST_SKIP() << made.status();
    tap_ = *std::move(made);
    absl::StatusOr<UniqueFd> tap = OpenTap(name);
    ASSERT_TRUE(tap.ok()) << tap.status();
    const UniqueFd flags(
        open(absl::StrCat("/sys/class/net/", name, "/flags").c_str(), O_WRONLY | O_CLOEXEC));
    if (!flags.valid() || write(flags.borrow().raw(), "0x1003", 6) != 6) {
      GTEST_SKIP() << "cannot bring an interface up through /sys";
    }
    // Ours alone: the kernel sends frames of its own over every new interface.
    host_ = UniqueFd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kOurType)));
    if (!host_.valid()) GTEST_SKIP() << "no packet socket";
    sockaddr_ll address = {};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kOurType);
    address.sll_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
    ASSERT_EQ(bind(host_.borrow().raw(), reinterpret_cast<sockaddr*>(&address), sizeof(address)),
              0);
    device_ = VirtioDevice::Create(MakeNetBackend(*std::move(tap), {2, 0, 0, 0, 0, 9}).value(),
                                   ram_.memory())
                  .value();
    const TestQueue* queues[] = {&receive_, &transmit_};
    ASSERT_TRUE(TestDriver(*device_).BringUp(queues));
    device_->Start();
  }

  void OfferBuffer(uint16_t number) {
    receive_.SetDescriptor(number, {.gpa = kReceiveBuffers + uint64_t{number} * kBufferBytes,
                                    .length = kBufferBytes,
                                    .flags = kDescriptorWritable,
                                    .next = 0});
    receive_.Offer(number);
  }
  // Whether `frame` has come; others may come too.
  bool TakeReceived(const std::string& frame) {
    while (const std::optional<UsedElement> used = receive_.TakeUsed()) {
      std::string got(used->length - kNetHeaderBytes, '\0');
      const uint64_t gpa = kReceiveBuffers + uint64_t{used->id} * kBufferBytes;
      ram_.memory().Read(gpa + kNetHeaderBytes, std::as_writable_bytes(std::span(got)));
      if (got == frame) return true;
      OfferBuffer(static_cast<uint16_t>(used->id));
    }
    return false;
  }

  std::unique_ptr<rehome::testing::TestTap> tap_;  // outlives the device, which has it open
  TestRam ram_;
  TestQueue receive_{ram_, kRamGpa, kQueueSize};
  TestQueue transmit_{ram_, kRamGpa + 0x4000, kQueueSize};
  UniqueFd host_;
  std::unique_ptr<VirtioDevice> device_;
};

TEST_F(NetTapTest, AFrameOfTheHostReachesTheGuest) {
  for (uint16_t i = 0; i < kQueueSize; ++i) OfferBuffer(i);
  TestDriver(*device_).Notify(kReceiveQueue);
  const std::string frame = Frame("to the guest");
  ASSERT_EQ(send(host_.borrow().raw(), frame.data(), frame.size(), 0),
            static_cast<ssize_t>(frame.size()));
  EXPECT_TRUE(AwaitInterrupts(*device_, [&] { return TakeReceived(frame); }));
}

TEST_F(NetTapTest, AFrameOfTheGuestReachesTheHost) {
  const std::string frame = Frame("to the host");
  ram_.memory().Write(kTransmitBuffer + kNetHeaderBytes, std::as_bytes(std::span(frame)));
  transmit_.SetDescriptor(0, {.gpa = kTransmitBuffer,
                              .length = static_cast<uint32_t>(kNetHeaderBytes + frame.size()),
                              .flags = 0,
                              .next = 0});
  transmit_.Offer(0);
  TestDriver(*device_).Notify(kTransmitQueue);
  ASSERT_TRUE(AwaitInterrupts(*device_, [&] { return transmit_.used_index() == 1; }));
  pollfd polled = {.fd = host_.borrow().raw(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&polled, 1, testing::kTestTimeoutMs), 1);
  char got[256];
  const ssize_t bytes = recv(host_.borrow().raw(), got, sizeof(got), 0);
  ASSERT_EQ(bytes, static_cast<ssize_t>(frame.size()));
  EXPECT_EQ(std::string(got, sizeof(got)).substr(0, frame.size()), frame);
}

}  // namespace
}  // namespace rehome::virtio
