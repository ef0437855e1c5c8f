// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/test_backend.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "vmm/reference/virtio/block.h"

namespace rehome::virtio::testing {
namespace {

// Each request has a page of its own.
constexpr uint64_t kRequestsGpa = kRamGpa + 0x10000;
constexpr uint64_t kRequestBytes = 0x1000;
constexpr uint64_t kStatusOffset = 0x20;
constexpr uint64_t kDataOffset = 0x200;
constexpr uint8_t kNoStatus = 0xee;

struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

bool IsWrite(uint16_t request) { return request % 2 == 0; }
// Of a write and the read behind it.
uint64_t SectorOf(uint16_t request) { return (request / 2) % BlockStream::kDiskSectors; }

}  // namespace

BlockStream::BlockStream(TestRam& ram, TestQueue& queue, uint16_t count)
    : ram_(ram), queue_(queue), count_(count) {
  for (uint16_t i = 0; i < count; ++i) Build(i);
}

std::byte BlockStream::ByteOf(uint16_t request, size_t at) {
  return static_cast<std::byte>(request * 31 + at * 7 + 1);
}
uint64_t BlockStream::HeaderAt(uint16_t request) const {
  return kRequestsGpa + request * kRequestBytes;
}
uint64_t BlockStream::StatusAt(uint16_t request) const { return HeaderAt(request) + kStatusOffset; }
uint64_t BlockStream::DataAt(uint16_t request) const { return HeaderAt(request) + kDataOffset; }

void BlockStream::Build(uint16_t request) {
  ram_.Put(HeaderAt(request), Header{IsWrite(request) ? 1u : 0u, 0, SectorOf(request)});
  ram_.Put(StatusAt(request), kNoStatus);
  for (size_t i = 0; i < kSectorBytes; ++i) {
    ram_.Put(DataAt(request) + i, IsWrite(request) ? ByteOf(request, i) : std::byte{0});
  }
  const uint16_t data_flags = IsWrite(request) ? 0 : kDescriptorWritable;
  const Descriptor chain[] = {
      {.gpa = HeaderAt(request), .length = sizeof(Header), .flags = 0, .next = 0},
      {.gpa = DataAt(request), .length = kSectorBytes, .flags = data_flags, .next = 0},
      {.gpa = StatusAt(request), .length = 1, .flags = kDescriptorWritable, .next = 0},
  };
  queue_.SetChain(static_cast<uint16_t>(3 * request), chain);
}

void BlockStream::Offer() { queue_.Offer(static_cast<uint16_t>(3 * offered_++)); }

void BlockStream::Check(BorrowedFd disk) {
  for (uint16_t i = 0; i < count_; ++i) {
    const std::optional<UsedElement> used = queue_.TakeUsed();
    ASSERT_TRUE(used.has_value()) << i;
    ASSERT_EQ(used->id, 3u * i);
    ASSERT_EQ(used->length, IsWrite(i) ? 1u : kSectorBytes + 1);
    ASSERT_EQ(ram_.Get<uint8_t>(StatusAt(i)), 0) << i;
    const auto writer = static_cast<uint16_t>(i & ~1);
    for (size_t at = 0; at < kSectorBytes; ++at) {
      ASSERT_EQ(ram_.Get<std::byte>(DataAt(i) + at), ByteOf(writer, at)) << i << " at " << at;
    }
  }
  EXPECT_FALSE(queue_.TakeUsed().has_value());
  for (int last = count_ - 1; last >= 0 && last >= count_ - 2 * int{kDiskSectors}; --last) {
    const auto request = static_cast<uint16_t>(last);
    if (!IsWrite(request)) continue;
    std::array<std::byte, kSectorBytes> sector;
    ASSERT_EQ(pread(disk.raw(), sector.data(), sector.size(),
                    static_cast<off_t>(SectorOf(request) * kSectorBytes)),
              static_cast<ssize_t>(sector.size()));
    for (size_t at = 0; at < sector.size(); ++at) {
      ASSERT_EQ(sector[at], ByteOf(request, at)) << "sector of " << request << " at " << at;
    }
  }
}

UniqueFd NewStreamDisk() {
  UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.borrow().raw(), BlockStream::kDiskSectors * kSectorBytes), 0);
  return fd;
}

std::unique_ptr<Backend> StreamBackend(BorrowedFd disk) {
  absl::StatusOr<UniqueFd> copy = Duplicate(disk);
  EXPECT_TRUE(copy.ok()) << copy.status();
  absl::StatusOr<DiskFile> file = AdoptDisk(*std::move(copy), /*read_only=*/false);
  EXPECT_TRUE(file.ok()) << file.status();
  return MakeBlockBackend(*std::move(file), "stream");
}

}  // namespace rehome::virtio::testing
