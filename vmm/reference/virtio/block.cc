// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/block.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "vmm/reference/virtio/abi.h"

namespace rehome::virtio {
namespace {

// 5.2.3
constexpr uint64_t kFeatureSizeMax = 1ull << 1;
constexpr uint64_t kFeatureSegMax = 1ull << 2;
constexpr uint64_t kFeatureReadOnly = 1ull << 5;
constexpr uint64_t kFeatureFlush = 1ull << 9;

// 5.2.4, as far as our features give it a meaning
struct BlockConfig {
  uint64_t sectors;
  uint32_t size_max;
  uint32_t seg_max;
};
static_assert(sizeof(BlockConfig) <= kConfigBytes);

// 5.2.6
constexpr uint32_t kRead = 0;
constexpr uint32_t kWrite = 1;
constexpr uint32_t kFlush = 4;
constexpr uint32_t kGetId = 8;
enum class Outcome : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };
constexpr size_t kStatusBytes = 1;

struct RequestHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

// Bytes between guest memory and the disk at a time.
constexpr size_t kBufferBytes = 64 << 10;

// All of the bytes, at `offset`. A short transfer goes on; a file that has become shorter than the
// disk is an error.
template <typename Transfer>
bool TransferAll(size_t bytes, uint64_t offset, Transfer transfer) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t moved = transfer(done, bytes - done, static_cast<off_t>(offset + done));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    done += static_cast<size_t>(moved);
  }
  return true;
}

class BlockBackend final : public Backend {
 public:
  BlockBackend(DiskFile disk, std::string_view id) : disk_(std::move(disk)), buffer_(kBufferBytes) {
    profile_.device_id = kBlockDeviceId;
    profile_.features = kFeatureVersion1 | kFeatureSizeMax | kFeatureSegMax | kFeatureFlush |
                        (disk_.read_only ? kFeatureReadOnly : 0);
    profile_.queue_count = 1;
    const BlockConfig config = {
        .sectors = disk_.sectors, .size_max = kMaxSegmentBytes, .seg_max = kMaxSegments};
    std::memcpy(profile_.config.data(), &config, sizeof(config));
    std::copy_n(id.begin(), std::min(id.size(), id_.size()), id_.begin());
  }

  const DeviceProfile& profile() const override { return profile_; }
  BorrowedFd fd() const override { return disk_.fd.borrow(); }

  Served Serve(uint32_t, const Chain& chain, uint64_t features, GuestMemory& memory) override {
    RequestHeader header;
    ChainCursor out(chain.readable);
    if (!out.Read(memory, std::as_writable_bytes(std::span(&header, 1)))) {
      return {.result = ServeResult::kBroken, .fault = "a block request without a header"};
    }
    const uint64_t writable = chain.writable_bytes();
    if (writable < kStatusBytes) {
      return {.result = ServeResult::kBroken, .fault = "a block request without a status byte"};
    }
    Request request = {.header = header,
                       .out = out,
                       .out_bytes = chain.readable_bytes() - sizeof(header),
                       .in = ChainCursor(chain.writable),
                       .in_bytes = writable - kStatusBytes};
    const Outcome outcome = Do(request, features, memory);
    return WriteStatus(chain, request, outcome, memory);
  }

 private:
  struct Request {
    RequestHeader header;
    ChainCursor out;  // behind the header
    uint64_t out_bytes;
    ChainCursor in;
    uint64_t in_bytes;     // in front of the status
    uint64_t written = 0;  // of them
  };

  // The status is the last writable byte, however much was written in front of it; the used length
  // counts bytes without a gap (2.7.8.2).
  Served WriteStatus(const Chain& chain, const Request& request, Outcome outcome,
                     GuestMemory& memory) {
    ChainCursor status(chain.writable);
    const std::byte value{static_cast<uint8_t>(outcome)};
    if (!status.Skip(request.in_bytes) || !status.Write(memory, std::span(&value, 1))) {
      return {.result = ServeResult::kBroken, .fault = "a status byte that is not in RAM"};
    }
    const bool whole = request.written == request.in_bytes;
    return {.written = static_cast<uint32_t>(request.written + (whole ? kStatusBytes : 0))};
  }

  Outcome Do(Request& request, uint64_t features, GuestMemory& memory) {
    switch (request.header.type) {
      case kRead:
        return OnDisk(request.header.sector, request.in_bytes) ? Read(request, memory)
                                                               : Outcome::kIoError;
      case kWrite:
        if (disk_.read_only || !OnDisk(request.header.sector, request.out_bytes)) {
          return Outcome::kIoError;
        }
        return Write(request, (features & kFeatureFlush) == 0, memory);
      case kFlush:
        return Flush();
      case kGetId:
        return GetId(request, memory);
      default:
        return Outcome::kUnsupported;
    }
  }

  bool OnDisk(uint64_t sector, uint64_t bytes) const {
    return bytes % kSectorBytes == 0 && bytes <= kMaxRequestBytes && sector <= disk_.sectors &&
           bytes / kSectorBytes <= disk_.sectors - sector;
  }

  Outcome Read(Request& request, GuestMemory& memory) {
    uint64_t offset = request.header.sector * kSectorBytes;
    while (request.written < request.in_bytes) {
      const std::span piece =
          std::span(buffer_).first(std::min(buffer_.size(), request.in_bytes - request.written));
      const bool read = TransferAll(piece.size(), offset, [&](size_t at, size_t size, off_t from) {
        return pread(fd().raw(), piece.data() + at, size, from);
      });
      if (!read || !request.in.Write(memory, piece)) return Outcome::kIoError;
      offset += piece.size();
      request.written += piece.size();
    }
    return Outcome::kOk;
  }

  Outcome Write(Request& request, bool write_through, GuestMemory& memory) {
    uint64_t offset = request.header.sector * kSectorBytes;
    for (uint64_t left = request.out_bytes; left > 0;) {
      const std::span piece = std::span(buffer_).first(std::min(buffer_.size(), left));
      if (!request.out.Read(memory, piece)) return Outcome::kIoError;
      const bool written = TransferAll(piece.size(), offset, [&](size_t at, size_t size, off_t to) {
        return pwrite(fd().raw(), piece.data() + at, size, to);
      });
      if (!written) return Outcome::kIoError;
      offset += piece.size();
      left -= piece.size();
    }
    return write_through ? Flush() : Outcome::kOk;
  }

  Outcome Flush() { return fdatasync(fd().raw()) == 0 ? Outcome::kOk : Outcome::kIoError; }

  Outcome GetId(Request& request, GuestMemory& memory) {
    const std::span id = std::as_bytes(std::span(id_));
    const std::span piece = id.first(std::min(id.size(), request.in_bytes));
    if (!request.in.Write(memory, piece)) return Outcome::kIoError;
    request.written = piece.size();
    return Outcome::kOk;
  }

  const DiskFile disk_;
  DeviceProfile profile_;
  std::array<char, kDiskIdBytes> id_{};
  std::vector<std::byte> buffer_;  // nothing in it between requests
};

}  // namespace

std::unique_ptr<Backend> MakeBlockBackend(DiskFile disk, std::string_view id) {
  return std::make_unique<BlockBackend>(std::move(disk), id);
}

}  // namespace rehome::virtio
