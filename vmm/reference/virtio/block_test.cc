// SPDX-License-Identifier: Apache-2.0
#include "vmm/reference/virtio/block.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "kvmglue/status_reason.h"
#include "vmm/reference/virtio/test_driver.h"

namespace rehome::virtio {
namespace {

using testing::kRamGpa;
using testing::TestRam;

constexpr uint64_t kSectors = 64;
constexpr uint64_t kHeaderAt = kRamGpa;
constexpr uint64_t kStatusByteAt = kRamGpa + 0x100;
constexpr uint64_t kDataAt = kRamGpa + 0x1000;
constexpr uint64_t kFlushFeature = 1u << 9;
constexpr uint64_t kAllFeatures = kFeatureVersion1 | kFlushFeature;
constexpr uint32_t kRead = 0;
constexpr uint32_t kWrite = 1;
constexpr uint32_t kFlush = 4;
constexpr uint32_t kGetId = 8;

struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

std::byte Pattern(uint64_t at) { return static_cast<std::byte>(at * 7 + at / 512); }

UniqueFd NewDisk(uint64_t bytes, int more_flags = 0) {
  UniqueFd fd(memfd_create("disk", MFD_CLOEXEC | more_flags));
  std::vector<std::byte> content(bytes);
  for (uint64_t i = 0; i < bytes; ++i) content[i] = Pattern(i);
  EXPECT_EQ(pwrite(fd.borrow().raw(), content.data(), bytes, 0), static_cast<ssize_t>(bytes));
  return fd;
}

UniqueFd ReadOnly(BorrowedFd file) {
  const std::string path = "/proc/self/fd/" + std::to_string(file.raw());
  return UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

class BlockTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(false); }
  void Make(bool read_only) {
    UniqueFd file = NewDisk(kSectors * kSectorBytes, MFD_ALLOW_SEALING);
    if (read_only) file = ReadOnly(file.borrow());
    absl::StatusOr<DiskFile> disk = AdoptDisk(std::move(file), read_only);
    ASSERT_TRUE(disk.ok()) << disk.status();
    backend_ = MakeBlockBackend(*std::move(disk), "serial-1");
  }

  // One request whose data is at kDataAt.
  Served Do(uint32_t type, uint64_t sector, uint32_t out, uint32_t in,
            uint64_t features = kAllFeatures) {
    ram_.Put(kHeaderAt, Header{type, 0, sector});
    ram_.Put(kStatusByteAt, uint8_t{0xee});
    Chain chain;
    chain.readable = {{kHeaderAt, 16}};
    if (out > 0) chain.readable.push_back({kDataAt, out});
    if (in > 0) chain.writable.push_back({kDataAt, in});
    chain.writable.push_back({kStatusByteAt, 1});
    const Served served = backend_->Serve(0, chain, features, ram_.memory());
    EXPECT_EQ(served.result, ServeResult::kDone);
    return served;
  }
  int Status() const { return ram_.Get<uint8_t>(kStatusByteAt); }
  std::vector<std::byte> OnDisk(uint64_t at, size_t bytes) const {
    std::vector<std::byte> content(bytes);
    EXPECT_EQ(pread(backend_->fd().raw(), content.data(), bytes, static_cast<off_t>(at)),
              static_cast<ssize_t>(bytes));
    return content;
  }

  TestRam ram_;
  std::unique_ptr<Backend> backend_;
};

TEST_F(BlockTest, TheConfigurationSaysWhatFits) {
  const auto& config = backend_->profile().config;
  uint64_t sectors = 0;
  uint32_t size_max = 0;
  uint32_t seg_max = 0;
  std::memcpy(&sectors, config.data(), 8);
  std::memcpy(&size_max, config.data() + 8, 4);
  std::memcpy(&seg_max, config.data() + 12, 4);
  EXPECT_EQ(sectors, kSectors);
  EXPECT_EQ(uint64_t{size_max} * seg_max, kMaxRequestBytes);
  EXPECT_LE(seg_max + 2, kMaxQueueSize);
}

TEST_F(BlockTest, Reads) {
  const Served served = Do(kRead, 3, 0, 1024);
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(served.written, 1025u);
  for (uint64_t i = 0; i < 1024; ++i) {
    ASSERT_EQ(ram_.Get<std::byte>(kDataAt + i), Pattern(3 * 512 + i)) << i;
  }
  EXPECT_EQ(ram_.Get<uint8_t>(kDataAt + 1024), 0);
}

TEST_F(BlockTest, WritesThereAndNowhereElse) {
  for (uint64_t i = 0; i < 512; ++i) ram_.Put(kDataAt + i, std::byte{0xab});
  const Served served = Do(kWrite, 5, 512, 0);
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(served.written, 1u);
  const std::vector<std::byte> disk = OnDisk(0, kSectors * kSectorBytes);
  for (uint64_t i = 0; i < disk.size(); ++i) {
    ASSERT_EQ(disk[i], i / 512 == 5 ? std::byte{0xab} : Pattern(i)) << i;
  }
}

TEST_F(BlockTest, RequestsLargerThanTheBuffer) {
  EXPECT_EQ(Do(kRead, 0, 0, kSectors * kSectorBytes).written, kSectors * kSectorBytes + 1);
  EXPECT_EQ(Status(), 0);
  Do(kWrite, 0, kSectors * kSectorBytes, 0);
  EXPECT_EQ(Status(), 0);
  for (uint64_t i = 0; i < kSectors * kSectorBytes; ++i) {
    ASSERT_EQ(OnDisk(i, 1)[0], Pattern(i)) << i;
  }
}

TEST_F(BlockTest, HowTheDriverCutsARequestMeansNothing) {
  ram_.Put(kHeaderAt, Header{kRead, 0, 1});
  Chain chain;
  chain.readable = {{kHeaderAt, 1}, {kHeaderAt + 1, 15}};
  // 512 bytes and the status, cut anywhere.
  chain.writable = {{kDataAt, 1}, {kDataAt + 1, 500}, {kDataAt + 501, 12}};
  const Served served = backend_->Serve(0, chain, kAllFeatures, ram_.memory());
  EXPECT_EQ(served.written, 513u);
  for (uint64_t i = 0; i < 512; ++i) {
    ASSERT_EQ(ram_.Get<std::byte>(kDataAt + i), Pattern(512 + i)) << i;
  }
  EXPECT_EQ(ram_.Get<uint8_t>(kDataAt + 512), 0);
}

TEST_F(BlockTest, FlushesAndTellsItsId) {
  Do(kFlush, 0, 0, 0);
  EXPECT_EQ(Status(), 0);
  EXPECT_EQ(Do(kGetId, 0, 0, kDiskIdBytes).written, kDiskIdBytes + 1);
  EXPECT_EQ(Status(), 0);
  std::string id;
  for (size_t i = 0; i < 9; ++i) id.push_back(ram_.Get<char>(kDataAt + i));
  EXPECT_EQ(id, std::string("serial-1\0", 9));
  EXPECT_EQ(Do(kGetId, 0, 0, 3).written, 4u);
}

TEST_F(BlockTest, WithoutFlushTheDiskWritesThrough) {
  Do(kWrite, 0, 512, 0, kFeatureVersion1);
  EXPECT_EQ(Status(), 0);
}

TEST_F(BlockTest, WhatCannotBeDoneIsAnError) {
  struct Case {
    const char* name;
    uint32_t type;
    uint64_t sector;
    uint32_t out;
    uint32_t in;
    int status;
  };
  const Case cases[] = {
      {"read past the end", kRead, kSectors, 0, 512, 1},
      {"read over the end", kRead, kSectors - 1, 0, 1024, 1},
      {"read far out", kRead, UINT64_MAX, 0, 512, 1},
      {"read where bytes overflow", kRead, UINT64_MAX / 512 + 1, 0, 512, 1},
      {"half a sector", kRead, 0, 0, 256, 1},
      {"write past the end", kWrite, kSectors, 512, 0, 1},
      {"write half a sector", kWrite, 0, 513, 0, 1},
      {"unknown", 77, 0, 0, 512, 2},
      {"discard, not offered", 11, 0, 16, 0, 2},
  };
  for (const Case& bad : cases) {
    Do(bad.type, bad.sector, bad.out, bad.in);
    EXPECT_EQ(Status(), bad.status) << bad.name;
  }
  const std::vector<std::byte> disk = OnDisk(0, kSectors * kSectorBytes);
  for (uint64_t i = 0; i < disk.size(); ++i) ASSERT_EQ(disk[i], Pattern(i)) << i;
}

// The used length counts what was written in front without a gap: not the status then.
TEST_F(BlockTest, AFailedReadHasWrittenNothing) {
  EXPECT_EQ(Do(kRead, kSectors, 0, 512).written, 0u);
  EXPECT_EQ(Status(), 1);
}

TEST_F(BlockTest, MoreThanARequestMayHaveIsAnError) {
  ram_.Put(kHeaderAt, Header{kRead, 0, 0});
  Chain chain;
  chain.readable = {{kHeaderAt, 16}};
  for (uint64_t bytes = 0; bytes <= kMaxRequestBytes; bytes += 1 << 20) {
    chain.writable.push_back({kRamGpa + 0x1000, 1 << 20});
  }
  chain.writable.push_back({kStatusByteAt, 1});
  backend_->Serve(0, chain, kAllFeatures, ram_.memory());
  EXPECT_EQ(Status(), 1);
}

TEST_F(BlockTest, AReadOnlyDiskIsNotWrittenTo) {
  Make(/*read_only=*/true);
  EXPECT_NE(backend_->profile().features & (1u << 5), 0u);
  EXPECT_EQ(fcntl(backend_->fd().raw(), F_GETFL) & O_ACCMODE, O_RDONLY);
  const std::vector<std::byte> before = OnDisk(0, 512);
  ram_.Put(kDataAt, uint64_t{0x1234});
  Do(kWrite, 0, 512, 0);
  EXPECT_EQ(Status(), 1);
  EXPECT_EQ(OnDisk(0, 512), before);
  Do(kRead, 0, 0, 512);
  EXPECT_EQ(Status(), 0);
  Do(kFlush, 0, 0, 0);
  EXPECT_EQ(Status(), 0);
}

TEST_F(BlockTest, ErrorsOfTheFileAreErrorsOfTheRequest) {
  ASSERT_EQ(ftruncate(backend_->fd().raw(), 512), 0);
  Do(kRead, 1, 0, 512);
  EXPECT_EQ(Status(), 1);
  Do(kRead, 0, 0, 512);
  EXPECT_EQ(Status(), 0);
  ASSERT_EQ(fcntl(backend_->fd().raw(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  Do(kWrite, 0, 512, 0);
  EXPECT_EQ(Status(), 1);
}

TEST_F(BlockTest, WhatIsNoRequestBreaksTheDevice) {
  ram_.Put(kHeaderAt, Header{kRead, 0, 0});
  Chain short_header;
  short_header.readable = {{kHeaderAt, 15}};
  short_header.writable = {{kDataAt, 513}};
  EXPECT_EQ(backend_->Serve(0, short_header, kAllFeatures, ram_.memory()).result,
            ServeResult::kBroken);
  Chain no_status;
  no_status.readable = {{kHeaderAt, 16}};
  EXPECT_EQ(backend_->Serve(0, no_status, kAllFeatures, ram_.memory()).result,
            ServeResult::kBroken);
}

// ---- the file

class DiskFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/disk-XXXXXX";
    const UniqueFd fd(mkostemp(pattern.data(), O_CLOEXEC));
    ASSERT_TRUE(fd.valid());
    path_ = pattern;
    ASSERT_EQ(ftruncate(fd.borrow().raw(), 8 * kSectorBytes), 0);
  }
  void TearDown() override { unlink(path_.c_str()); }
  void Resize(off_t bytes) { ASSERT_EQ(truncate(path_.c_str(), bytes), 0); }

  std::string path_;
};

TEST_F(DiskFileTest, OneMayWriteOrManyMayRead) {
  {
    const absl::StatusOr<DiskFile> writer = OpenDisk(path_, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ(writer->sectors, 8u);
    EXPECT_EQ(fcntl(writer->fd.borrow().raw(), F_GETFD), FD_CLOEXEC);
    const absl::Status second = OpenDisk(path_, false).status();
    EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(second), "DISK_LOCKED") << second;
    EXPECT_EQ(ReasonOf(OpenDisk(path_, true).status()), "DISK_LOCKED");
  }
  const absl::StatusOr<DiskFile> readers[] = {OpenDisk(path_, true), OpenDisk(path_, true)};
  EXPECT_TRUE(readers[0].ok() && readers[1].ok());
  EXPECT_EQ(ReasonOf(OpenDisk(path_, false).status()), "DISK_LOCKED");
}

TEST_F(DiskFileTest, ADiskThatNobodyCanLockIsNotSaidToBeSomebodys) {
  for (const int error : {EAGAIN, EACCES}) {
    EXPECT_EQ(ReasonOf(LockRefused("/mnt/d", false, error)), "DISK_LOCKED") << error;
  }
  for (const int error : {ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS, EIO, ESTALE}) {
    const absl::Status status = LockRefused("/mnt/d", false, error);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), "DISK_UNLOCKABLE") << error;
    const std::string text(status.message());
    EXPECT_NE(text.find("/mnt/d"), std::string::npos) << text;
    EXPECT_NE(text.find(strerrorname_np(error)), std::string::npos) << text;
  }
}

// The lock goes with the descriptor: the next VMM has it while the first still has it, and keeps it
// when the first is gone.
TEST_F(DiskFileTest, TheLockGoesWithTheDescriptor) {
  absl::StatusOr<DiskFile> source = OpenDisk(path_, false);
  ASSERT_TRUE(source.ok());
  absl::StatusOr<DiskFile> target = AdoptDisk(Duplicate(source->fd.borrow()).value(), false);
  ASSERT_TRUE(target.ok()) << target.status();
  source->fd.Reset();
  EXPECT_EQ(ReasonOf(OpenDisk(path_, false).status()), "DISK_LOCKED");
  target->fd.Reset();
  EXPECT_TRUE(OpenDisk(path_, false).ok());
}

// What a target gets from its source is what the source's configuration says, before any pause. A
// read lock on the description that has the write lock would give that up.
TEST_F(DiskFileTest, ADescriptorThatIsNotOpenAsItsDiskIsRefused) {
  const absl::StatusOr<DiskFile> writer = OpenDisk(path_, false);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(ReasonOf(AdoptDisk(Duplicate(writer->fd.borrow()).value(), true).status()),
            "DISK_INVALID");
  EXPECT_EQ(ReasonOf(OpenDisk(path_, true).status()), "DISK_LOCKED") << "the lock is as it was";
}

TEST_F(DiskFileTest, WhatIsNoDiskIsRefused) {
  EXPECT_EQ(ReasonOf(OpenDisk(path_ + "-not", false).status()), "OS_CALL_FAILED");
  EXPECT_EQ(ReasonOf(OpenDisk("/dev/null", false).status()), "DISK_INVALID");
  EXPECT_EQ(ReasonOf(OpenDisk(::testing::TempDir(), true).status()), "DISK_INVALID");
  Resize(0);
  EXPECT_EQ(ReasonOf(OpenDisk(path_, false).status()), "DISK_INVALID");
  Resize(513);
  EXPECT_EQ(ReasonOf(OpenDisk(path_, false).status()), "DISK_INVALID");
  Resize(512);
  EXPECT_EQ(
      ReasonOf(AdoptDisk(UniqueFd(open(path_.c_str(), O_RDONLY | O_CLOEXEC)), false).status()),
      "DISK_INVALID");
  EXPECT_EQ(ReasonOf(AdoptDisk(UniqueFd(open(path_.c_str(), O_WRONLY | O_CLOEXEC)), true).status()),
            "DISK_INVALID");
}

}  // namespace
}  // namespace rehome::virtio
