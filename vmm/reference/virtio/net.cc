// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/net.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "kvmglue/status_reason.h"
#include "vmm/reference/os_status.h"
#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

constexpr uint64_t kFeatureMac = 1ull << 5;  // 5.1.3
constexpr uint8_t kGroupAddressBit = 1;      // of the first byte (IEEE 802)
constexpr size_t kBufferCountOffset = 10;    // in the header

enum class Link : uint8_t { kTap, kDatagram, kSeqPacket };

absl::Status Invalid(std::string_view what) {
  return MakeStatus(absl::StatusCode::kInvalidArgument, "NET_FD_INVALID", what);
}

absl::StatusOr<Link> LinkOf(BorrowedFd fd) {
  struct stat info;
  if (fstat(fd.raw(), &info) != 0) return OsError("fstat", "the network's end", errno);
  if (S_ISCHR(info.st_mode)) return Link::kTap;
  int domain = 0;
  int type = 0;
  socklen_t size = sizeof(int);
  if (!S_ISSOCK(info.st_mode) || getsockopt(fd.raw(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      getsockopt(fd.raw(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || domain != AF_UNIX) {
    return Invalid("neither a tap nor a UNIX socket");
  }
  if (type == SOCK_DGRAM) return Link::kDatagram;
  if (type == SOCK_SEQPACKET) return Link::kSeqPacket;
  return Invalid("a socket that does not keep messages apart");
}

class NetBackend final : public Backend {
 public:
  NetBackend(UniqueFd fd, Link link, const MacAddress& mac)
      : fd_(std::move(fd)), link_(link), buffer_(kNetHeaderBytes + kMaxFrameBytes) {
    profile_.device_id = kNetDeviceId;
    profile_.features = kFeatureVersion1 | kFeatureMac;
    profile_.queue_count = 2;
    std::copy(mac.begin(), mac.end(), profile_.config.begin());
  }

  const DeviceProfile& profile() const override { return profile_; }
  BorrowedFd fd() const override { return fd_.borrow(); }

  Served Serve(uint32_t queue, const Chain& chain, uint64_t, GuestMemory& memory) override {
    return queue == kReceiveQueue ? Receive(chain, memory) : Transmit(chain, memory);
  }

 private:
  std::span<std::byte> frame() { return std::span(buffer_).subspan(kNetHeaderBytes); }

  Served Receive(const Chain& chain, GuestMemory& memory) {
    const uint64_t room = chain.writable_bytes();
    if (room <= kNetHeaderBytes || !chain.readable.empty()) {
      return {.result = ServeResult::kBroken, .fault = "a receive buffer that cannot be one"};
    }
    // Frames that do not fit are dropped; the bound is for a network that sends nothing else.
    for (int tries = 0; tries < kMaxDropsInARow; ++tries) {
      const SysCount got = ReadFrame();
      if (got.bytes < 0) return {.result = got.wait};
      if (got.bytes == 0 || static_cast<uint64_t>(got.bytes) > room - kNetHeaderBytes) continue;
      std::fill_n(buffer_.begin(), kNetHeaderBytes, std::byte{0});
      buffer_[kBufferCountOffset] = std::byte{1};
      const std::span message = std::span(buffer_).first(kNetHeaderBytes + got.bytes);
      if (!ChainCursor(chain.writable).Write(memory, message)) {
        return {.result = ServeResult::kBroken, .fault = "a receive buffer that is not in RAM"};
      }
      return {.written = static_cast<uint32_t>(message.size())};
    }
    return {.result = ServeResult::kWaitReadable};
  }

  Served Transmit(const Chain& chain, GuestMemory& memory) {
    const uint64_t bytes = chain.readable_bytes();
    if (bytes < kNetHeaderBytes || !chain.writable.empty()) {
      return {.result = ServeResult::kBroken, .fault = "a frame to be sent without a header"};
    }
    // Longer than any network carries: dropped.
    if (bytes > buffer_.size()) return {};
    const std::span message = std::span(buffer_).first(bytes);
    if (!ChainCursor(chain.readable).Read(memory, message)) {
      return {.result = ServeResult::kBroken, .fault = "a frame to be sent that is not in RAM"};
    }
    return WriteFrame(message.subspan(kNetHeaderBytes)) ? Served{}
                                                        : Served{ServeResult::kWaitWritable};
  }

  struct SysCount {
    ssize_t bytes = 0;  // < 0: no frame
    ServeResult wait = ServeResult::kDone;
  };

  // One byte more than the longest frame would fit, so that a longer one is seen to be longer.
  SysCount ReadFrame() {
    ssize_t bytes = 0;
    do {
      bytes = read(fd_.borrow().raw(), frame().data(), frame().size());
    } while (bytes < 0 && errno == EINTR);
    if (bytes < 0 && errno == EAGAIN) return {-1, ServeResult::kWaitReadable};
    // The end of the connection, or an interface that is gone: poll() would say so for ever.
    if (bytes < 0 || (bytes == 0 && link_ != Link::kDatagram)) return {-1, ServeResult::kIdle};
    return {bytes};
  }

  // False if there is no room for it now.
  bool WriteFrame(std::span<const std::byte> frame) {
    ssize_t bytes = 0;
    do {
      bytes = link_ == Link::kTap
                  ? write(fd_.borrow().raw(), frame.data(), frame.size())
                  : send(fd_.borrow().raw(), frame.data(), frame.size(), MSG_NOSIGNAL);
    } while (bytes < 0 && errno == EINTR);
    return bytes >= 0 || errno != EAGAIN;
  }

  static constexpr int kMaxDropsInARow = 64;

  const UniqueFd fd_;
  const Link link_;
  DeviceProfile profile_;
  std::vector<std::byte> buffer_;  // a header and a frame; nothing in it between chains
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeNetBackend(UniqueFd fd, const MacAddress& mac) {
  if ((mac[0] & kGroupAddressBit) != 0) return Invalid("the network address is one of a group");
  const absl::StatusOr<Link> link = LinkOf(fd.borrow());
  if (!link.ok()) return link.status();
  const int flags = fcntl(fd.borrow().raw(), F_GETFL);
  if (flags < 0 || fcntl(fd.borrow().raw(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return OsError("fcntl", "the network's end", errno);
  }
  return std::make_unique<NetBackend>(std::move(fd), *link, mac);
}

}  // namespace rehome::virtio
